//! The words of the OCI distribution and image specifications, as types that cannot be wrong.
//!
//! Everything here is pure: text in, value or error out. A name, tag or digest is parsed once, at the rim,
//! and is valid wherever it is met after that.

mod digest;
mod endpoint;
mod error;
mod manifest;
pub mod media_type;
mod name;
mod running;
pub mod schema1;
mod scope;

pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use endpoint::{Action, Endpoint, EndpointError};
pub use error::{ErrorBody, ErrorCode};
pub use manifest::{Descriptor, Manifest, ManifestError};
pub use name::{NameError, Reference, RepositoryName, Tag};
pub use running::RunningDigest;
pub use scope::{Resource, Scope, ScopeError};
