//! Why a measurement could not be made.

use std::error::Error;

/// A failure, with what was being done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Something is not as it must be.
    #[error("{0}")]
    Said(String),
    /// Something else failed meanwhile.
    #[error("{what}: {cause}")]
    During {
        /// What was being done.
        what: String,
        /// What failed.
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
}

/// The result of everything here.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Says what was being done when something failed.
pub(crate) trait During<T> {
    /// `what` is lowercase and has no full stop.
    fn during(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> During<T> for Result<T, E> {
    fn during(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|cause| Failure::During { what: what.into(), cause: cause.into() })
    }
}

/// A failure that is nothing but its text.
pub(crate) fn failed<T>(text: impl Into<String>) -> Result<T> {
    Err(Failure::Said(text.into()))
}
