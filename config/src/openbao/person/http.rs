//! The HTTP client of the store, as a login at an identity provider wants one: bounded in time and size, for safe URLs.

use harmony_login::{Http, HttpRequest, HttpResponse};

use super::ASK_WITHIN;
use crate::openbao::{error::causes, transport::secure};

/// Largest answer, in bytes. Discovery documents and key sets have a few thousand.
const MAX_ANSWER: usize = 256 * 1024;

pub(super) fn http(client: &reqwest::Client) -> Http {
    let client = client.clone();
    Http::new(move |request| {
        let asked = tokio::time::timeout(ASK_WITHIN, ask(client.clone(), request));
        async move { asked.await.unwrap_or(Err(HttpError::TimedOut)) }
    })
}

/// Why the provider could not be asked.
#[derive(Debug, thiserror::Error)]
enum HttpError {
    #[error("{0} may not be asked: expected https://")]
    NotAllowed(String),
    #[error("no connection: {0}")]
    Unreachable(String),
    #[error("no answer within {} s", ASK_WITHIN.as_secs())]
    TimedOut,
    #[error("the answer has more than {MAX_ANSWER} bytes")]
    TooLarge,
}

async fn ask(client: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, HttpError> {
    let unreachable = |error: reqwest::Error| HttpError::Unreachable(causes(&error.without_url()));
    let request: reqwest::Request = request.try_into().map_err(unreachable)?;
    // The discovery document names the other URLs.
    if !secure(request.url()) {
        return Err(HttpError::NotAllowed(request.url().origin().ascii_serialization()));
    }
    let mut answer = client.execute(request).await.map_err(unreachable)?;
    let mut response = HttpResponse::new(Vec::new());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
        if response.body().len() + chunk.len() > MAX_ANSWER {
            return Err(HttpError::TooLarge);
        }
        response.body_mut().extend_from_slice(&chunk);
    }
    Ok(response)
}
