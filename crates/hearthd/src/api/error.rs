//! Every failure of a handler becomes a problem document here.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use hearth_store::StoreError;
use hearth_types::problem::{Code, Problem};
use hearth_types::spec::FieldError;
use hearth_types::survey::chain;

/// A handler's failure. Boxed: a problem is far larger than most answers.
#[derive(Debug)]
pub struct ApiError(pub(super) Box<Problem>);

/// What handlers return.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// A failure of this kind.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(code, detail)))
    }

    /// The same with advice.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self(Box::new(self.0.hint(hint)))
    }

    /// The problem itself.
    #[must_use]
    pub fn into_problem(self) -> Problem {
        *self.0
    }

    /// A failure of the guest or of the way to it.
    pub fn guest(name: &impl std::fmt::Display, error: &anyhow::Error) -> Self {
        Self::new(
            Code::GuestUnreachable,
            format!("the guest of {name} cannot be reached: {error:#}"),
        )
        .hint(format!("see what it says: hearth logs {name}"))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::warn!(code = ?self.0.code, "a request failed: {}", self.0.detail);
        }
        let mut response = (status, Json(*self.0)).into_response();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl From<anyhow::Error> for ApiError {
    fn from(error: anyhow::Error) -> Self {
        let error = match error.downcast::<Problem>() {
            Ok(problem) => return problem.into(),
            Err(error) => error,
        };
        match error.downcast::<StoreError>() {
            Ok(error) => error.into(),
            Err(error) => Self::new(Code::Internal, format!("{error:#}")),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if let StoreError::Circle { .. } = &error {
            let field = FieldError::new("after", error.to_string());
            return Problem::fields(vec![field]).into();
        }
        let code = match &error {
            StoreError::NameTaken { .. }
            | StoreError::SnapshotNamed { .. }
            | StoreError::TemplateNamed { .. }
            | StoreError::SnapshotGone { .. }
            | StoreError::VolumeNamed { .. }
            | StoreError::NotAttached { .. }
            | StoreError::Volumes { .. }
            | StoreError::PortTaken { .. }
            | StoreError::AddressTaken { .. }
            | StoreError::LeaseTaken { .. }
            | StoreError::Recorded { .. }
            | StoreError::Connected { .. }
            | StoreError::Leaving { .. }
            | StoreError::StillWanted { .. } => Code::Conflict,
            StoreError::AddressOutside { .. } => Code::Invalid,
            StoreError::Exhausted { .. } | StoreError::Full { .. } => Code::Exhausted,
            StoreError::SnapshotUsed { .. } | StoreError::VolumeUsed { .. } => Code::InUse,
            StoreError::NotFound { .. } => Code::NotFound,
            StoreError::Stale { .. } => Code::PreconditionFailed,
            StoreError::KeyReused { .. } => Code::IdempotencyMismatch,
            _ => Code::Internal,
        };
        let hint = match &error {
            StoreError::NameTaken { name, .. } => Some(format!(
                "remove it with: hearth rm {name}, or choose another name"
            )),
            StoreError::TemplateNamed { name } => Some(format!(
                "replace it with: hearth template create --replace {name} …"
            )),
            StoreError::VolumeUsed { name, vm } => Some(format!(
                "take it from the VM first: hearth volume detach {vm} {name}"
            )),
            StoreError::Volumes { vm, .. } => Some(format!(
                "mount them elsewhere, or see what is attached (hearth volume ls) and take it from the VM: hearth volume detach {vm} VOLUME"
            )),
            StoreError::Connected { name } => Some(format!("stop it first: hearth stop {name}")),
            _ => None,
        };
        let problem = Problem::new(code, chain(&error));
        match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
        .into()
    }
}

/// Refuses a parameter that is larger than the document says.
pub(super) fn at_most(name: &str, value: Option<u32>, most: u32) -> ApiResult<()> {
    match value {
        Some(value) if value > most => Err(ApiError::new(
            Code::Invalid,
            format!("{name}: is {value}, must be at most {most}"),
        )),
        _ => Ok(()),
    }
}

/// No such path.
pub(super) async fn no_such_path(uri: Uri) -> ApiError {
    ApiError::new(
        Code::NotFound,
        format!("there is nothing at {}", uri.path()),
    )
}

/// The path exists, the method does not.
pub(super) async fn no_such_method(method: axum::http::Method, uri: Uri) -> ApiError {
    ApiError::new(
        Code::MethodNotAllowed,
        format!("{method} is not possible at {}", uri.path()),
    )
}

/// A JSON body whose failures are problem documents with the field's path.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T, S> axum::extract::FromRequest<S> for Body<T>
where
    T: serde::de::DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, ApiError> {
        let bytes = bytes::Bytes::from_request(request, state)
            .await
            .map_err(|rejection| {
                let code = if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                    Code::TooLarge
                } else {
                    Code::Invalid
                };
                ApiError::new(code, rejection.body_text())
            })?;
        // No body and `null` say the same: nothing but the defaults. Blanks alone are no JSON.
        let text: &[u8] = match bytes.trim_ascii() {
            b"" if bytes.is_empty() => b"{}",
            b"null" => b"{}",
            text => text,
        };
        // Serde would take a list of the fields' values, too.
        if text.first() == Some(&b'[') {
            return Err(ApiError::new(
                Code::Invalid,
                "the body must be a JSON object, not a list",
            ));
        }
        let mut reader = serde_json::Deserializer::from_slice(text);
        let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let path = error.path().to_string();
            let field = FieldError::new(path, error.into_inner().to_string());
            ApiError::from(Problem::fields(vec![field]))
        })?;
        reader.end().map_err(|error| {
            ApiError::new(
                Code::Invalid,
                format!("the body goes on after the JSON value: {error}"),
            )
        })?;
        Ok(Self(value))
    }
}

/// Query parameters whose failures are problem documents.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<T, S> axum::extract::FromRequestParts<S> for Params<T>
where
    T: serde::de::DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, ApiError> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(ApiError::new(Code::Invalid, rejection.body_text())),
        }
    }
}

/// What a path names; what is not text is a problem document, too.
#[derive(Debug)]
pub struct InPath<T>(pub T);

impl<T, S> axum::extract::FromRequestParts<S> for InPath<T>
where
    T: serde::de::DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, ApiError> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(ApiError::new(Code::Invalid, rejection.body_text())),
        }
    }
}
