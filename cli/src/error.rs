//! What can go wrong, as the one line a user sees.

use crate::api::ApiError;
use crate::credentials::CredentialsError;
use crate::gateway_url::UrlError;
use crate::stack::StackError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The stack file cannot be used.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The gateway's address is none.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The password cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The gateway cannot be reached or refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Command line options that do not go together.
    #[error("{0}")]
    Usage(String),
    /// Some functions failed; each was told when it did.
    #[error("{failed} of {all} functions failed")]
    Some {
        /// How many failed.
        failed: usize,
        /// How many there were.
        all: usize,
    },
    /// Something did not get ready in time.
    #[error("{0} is not ready")]
    NotReady(String),
    /// A function answered with an error.
    #[error("{name} answered {status}")]
    Answer {
        /// The function.
        name: String,
        /// Status code and reason.
        status: String,
    },
    /// Standard input or output broke.
    #[error("{0}")]
    Stream(#[from] std::io::Error),
}
