//! What the edge and the origin share.
//!
//! - [`oci`]: names, digests, references, manifests, error codes and the request parser. Pure: no I/O, no tokio.
//! - [`client`]: the registry client, from challenge to resumed body.
//! - [`store`]: where blobs are kept: files, or an object store.
//! - [`tls`]: what is wrong with a certificate or a handshake, in words.
//! - [`token`]: tokens that say what their bearer may do, and the keys that sign and verify them.

pub mod client;
pub mod oci;
pub mod store;
pub mod tls;
pub mod token;
