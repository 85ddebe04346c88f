//! Placeholder until the embedded server lands.
/// What an embedded server lets in.
#[derive(Clone, Debug)]
pub struct Access {
    /// Where.
    pub url: String,
    /// Who.
    pub user: Option<String>,
    /// With what.
    pub password: Option<crate::settings::Secret>,
}

/// Placeholder.
#[derive(Debug, thiserror::Error)]
#[error("placeholder")]
pub struct EmbeddedError;
/// Placeholder.
pub struct Embedded {}
impl Embedded {
    /// Placeholder.
    pub async fn start(_: &crate::settings::Settings, _: crate::names::NodeId, _: &crate::settings::ClusterSettings) -> Result<Self, EmbeddedError> { Err(EmbeddedError) }
    /// Placeholder.
    pub fn access(&self) -> tokio::sync::watch::Receiver<Access> { unimplemented!() }
    /// Placeholder.
    pub fn restarts_handle(&self) -> std::sync::Arc<std::sync::atomic::AtomicU64> { unimplemented!() }
    /// Placeholder.
    pub async fn stop(self) {}
}
