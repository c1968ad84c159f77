//! What operators see: health, metrics and, later, the API and the dashboard.

pub(crate) mod metrics;
