//! Questions to the API server: whose token is this, and may they?

use futures::future::{BoxFuture, FutureExt as _};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};

use super::user::User;

/// The API server could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// A TokenReview failed.
    #[error("reviewing a bearer token")]
    Token(#[source] kube::Error),
    /// A SubjectAccessReview failed.
    #[error("reviewing access")]
    Access(#[source] kube::Error),
    /// The API server did not answer in time.
    #[error("the API server did not answer a review within {0:?}")]
    Timeout(std::time::Duration),
}

/// One question to the authorizer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Access {
    /// Who asks.
    pub user: User,
    /// For what.
    pub verb: &'static str,
    /// On which Node.
    pub node: String,
    /// On which subresource of it.
    pub subresource: &'static str,
}

/// Who answers: the API server, or a test.
pub trait Reviewer: Send + Sync + 'static {
    /// The user of a bearer token, or `None`.
    fn token(&self, token: String) -> BoxFuture<'_, Result<Option<User>, ReviewError>>;
    /// Whether the access is granted.
    fn access(&self, access: Access) -> BoxFuture<'_, Result<bool, ReviewError>>;
}

/// Asks the API server with this process' own account.
#[derive(Clone)]
pub struct ApiServer(pub Client);

impl Reviewer for ApiServer {
    fn token(&self, token: String) -> BoxFuture<'_, Result<Option<User>, ReviewError>> {
        let review =
            TokenReview { spec: TokenReviewSpec { token, audiences: None }, ..TokenReview::default() };
        async move {
            let api: Api<TokenReview> = Api::all(self.0.clone());
            let answer = api.create(&PostParams::default(), &review).await.map_err(ReviewError::Token)?;
            Ok(answer
                .status
                .filter(|status| status.authenticated == Some(true))
                .and_then(|status| status.user)
                .and_then(User::of_review))
        }
        .boxed()
    }

    fn access(&self, access: Access) -> BoxFuture<'_, Result<bool, ReviewError>> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(access.user.name),
                uid: access.user.uid,
                groups: Some(access.user.groups),
                extra: Some(access.user.extra).filter(|extra| !extra.is_empty()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(access.verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(access.subresource.to_owned()),
                    name: Some(access.node),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        async move {
            let api: Api<SubjectAccessReview> = Api::all(self.0.clone());
            let answer = api.create(&PostParams::default(), &review).await.map_err(ReviewError::Access)?;
            Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
        }
        .boxed()
    }
}
