//! A bucket of S3, or of any server that speaks its protocol, as a store.
//!
//! Owns: an object is one PUT with its length, so it is there whole or not at all. The bucket is
//! created with the first object if it is missing. Retries are [`crate::store::Retrying`]'s: the
//! client has none of its own. A crash leaves nothing.

use super::broken;
use crate::name::Name;
use crate::store::{ENTRIES_MAX, Entry, Store, StoreError, StoreErrorKind, too_large};
use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketLocationConstraint, CreateBucketConfiguration, ServerSideEncryption,
};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bytes::{Bytes, BytesMut};
use std::ops::Range;
use std::time::Duration;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// The region of servers that have none.
const NO_REGION: &str = "us-east-1";

/// Where the bucket is, and the access to it.
#[derive(Clone, Default)]
pub struct S3Options {
    /// `host:port`, perhaps with `http://` or `https://` before it.
    pub endpoint: String,
    /// TLS; an endpoint with a scheme decides itself.
    pub use_ssl: bool,
    /// The bucket.
    pub bucket: String,
    /// What the keys of all objects begin with: folders, without a slash at either end.
    pub path: String,
    /// Empty: the region in an endpoint of AWS, else `us-east-1`.
    pub region: String,
    /// `http://endpoint/bucket/key` instead of `http://bucket.endpoint/key`.
    pub path_style: bool,
    /// The id of the access key.
    pub access_key: String,
    /// The secret of the access key.
    pub secret: String,
    /// The token of temporary credentials, or empty.
    pub session_token: String,
    /// The header `x-amz-server-side-encryption` of each object, or empty.
    pub sse: String,
}

impl S3Options {
    fn url(&self) -> String {
        match self.endpoint.contains("://") {
            true => self.endpoint.clone(),
            false if self.use_ssl => format!("https://{}", self.endpoint),
            false => format!("http://{}", self.endpoint),
        }
    }

    fn region(&self) -> String {
        if !self.region.is_empty() {
            return self.region.clone();
        }
        // s3.eu-west-1.amazonaws.com
        let url = self.url();
        let host = url.split("://").nth(1).unwrap_or_default().split([':', '/']).next();
        let named = host.and_then(|host| host.strip_suffix(".amazonaws.com"));
        let region = named.and_then(|rest| rest.rsplit_once('.')).map(|(_, region)| region);
        region.unwrap_or(NO_REGION).to_owned()
    }
}

/// Objects in a bucket.
pub struct S3 {
    client: Client,
    url: String,
    region: String,
    options: S3Options,
}

impl S3 {
    /// Returns the store. Connects at the first request.
    pub fn new(mut options: S3Options) -> Self {
        options.path = options.path.trim_matches('/').to_owned();
        let token = Some(options.session_token.clone()).filter(|token| !token.is_empty());
        let (access_key, secret) = (options.access_key.as_str(), options.secret.as_str());
        let (url, region) = (options.url(), options.region());
        let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .http_client(http)
            .endpoint_url(&url)
            .region(Region::new(region.clone()))
            .force_path_style(options.path_style)
            .credentials_provider(Credentials::new(access_key, secret, token, None, "settings"))
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build())
            // Servers other than AWS do not know the newer checksums. Chunks are checked here.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        Self { client: Client::from_conf(config), url, region, options }
    }

    fn key(&self, name: &str) -> String {
        match self.options.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}/{name}"),
        }
    }

    async fn put_once(&self, name: &Name, body: Bytes) -> Result<(), StoreError> {
        let sse = Some(self.options.sse.as_str()).filter(|sse| !sse.is_empty());
        let put = self
            .client
            .put_object()
            .bucket(&self.options.bucket)
            .key(self.key(name.as_str()))
            .content_length(i64::try_from(body.len()).unwrap_or(i64::MAX))
            .set_server_side_encryption(sse.map(ServerSideEncryption::from))
            .body(ByteStream::from(body));
        put.send().await.map(drop).map_err(|error| self.failed(error))
    }

    async fn create_bucket(&self) -> Result<(), StoreError> {
        // The region us-east-1 must not be named.
        let place = (self.region != NO_REGION).then(|| {
            CreateBucketConfiguration::builder()
                .location_constraint(BucketLocationConstraint::from(self.region.as_str()))
                .build()
        });
        let bucket = self.client.create_bucket().bucket(&self.options.bucket);
        match bucket.set_create_bucket_configuration(place).send().await {
            Err(error) if error.code() != Some("BucketAlreadyOwnedByYou") => {
                Err(self.failed(error))
            }
            _ => Ok(()),
        }
    }

    fn failed<E>(&self, error: SdkError<E>) -> StoreError
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let status = error.raw_response().map(|response| response.status().as_u16());
        let code = error.code().map(ToOwned::to_owned);
        let kind = kind(status, code.as_deref().unwrap_or_default());
        let text = match (error.message(), &code, status) {
            (Some(message), Some(code), _) => format!("{code}: {message}"),
            (None, Some(code), _) => code.clone(),
            (_, None, Some(status)) => format!("status {status}"),
            (_, None, None) => return broken(&error),
        };
        let advice = match code.as_deref() {
            Some("NoSuchBucket") => "; check snapshot.s3.bucket",
            Some("SignatureDoesNotMatch" | "InvalidAccessKeyId") => {
                "; check snapshot.s3.access_key and snapshot.s3.secret"
            }
            Some("InvalidToken" | "ExpiredToken") => "; renew snapshot.s3.session_token",
            Some("RequestTimeTooSkewed") => "; set this machine's clock",
            Some("AuthorizationHeaderMalformed" | "PermanentRedirect" | "TemporaryRedirect") => {
                "; set snapshot.s3.region to the region of the bucket"
            }
            _ => "",
        };
        StoreError::new(kind, format!("{text}{advice}"))
    }
}

fn kind(status: Option<u16>, code: &str) -> StoreErrorKind {
    match (code, status) {
        ("NoSuchBucket", _) => StoreErrorKind::Lasting,
        ("NoSuchKey" | "NotFound", _) => StoreErrorKind::NotFound,
        ("EntityTooLarge", _) => StoreErrorKind::TooLarge,
        ("QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded", _) => {
            StoreErrorKind::Full
        }
        (_, Some(507)) => StoreErrorKind::Full,
        ("SlowDown" | "RequestTimeout" | "OperationAborted", _) => StoreErrorKind::Passing,
        (_, Some(401 | 403)) => StoreErrorKind::Denied,
        // 501: a server that lacks what was asked.
        (_, Some(501)) => StoreErrorKind::Lasting,
        (_, Some(408 | 429 | 500..)) | (_, None) => StoreErrorKind::Passing,
        _ => StoreErrorKind::Lasting,
    }
}

#[async_trait]
impl Store for S3 {
    fn place(&self) -> String {
        let S3Options { bucket, path, .. } = &self.options;
        let path = if path.is_empty() { String::new() } else { format!("/{path}") };
        format!("S3 bucket {bucket}{path} at {}", self.url)
    }

    async fn put(&self, name: &Name, body: Bytes) -> Result<(), StoreError> {
        match self.put_once(name, body.clone()).await {
            Err(error) if error.reason.starts_with("NoSuchBucket") => {
                self.create_bucket().await?;
                self.put_once(name, body).await
            }
            answer => answer,
        }
    }

    async fn get(
        &self,
        name: &Name,
        range: Option<Range<u64>>,
        bytes_max: usize,
    ) -> Result<Bytes, StoreError> {
        let wanted = range.map(|range| (range.start, range.end.saturating_sub(1)));
        if wanted.is_some_and(|(first, last)| last < first) {
            return Ok(Bytes::new());
        }
        let get = self
            .client
            .get_object()
            .bucket(&self.options.bucket)
            .key(self.key(name.as_str()))
            .set_range(wanted.map(|(first, last)| format!("bytes={first}-{last}")));
        let mut found = match get.send().await {
            Ok(found) => found,
            // The range begins after the object's end.
            Err(error) if error.code() == Some("InvalidRange") => return Ok(Bytes::new()),
            Err(error) if error.code() == Some("NoSuchBucket") => {
                return Err(StoreError::new(StoreErrorKind::NotFound, "there is no such bucket"));
            }
            Err(error) => return Err(self.failed(error)),
        };
        let announced = found.content_length().and_then(|bytes| usize::try_from(bytes).ok());
        let announced = announced.unwrap_or(0);
        if announced > bytes_max {
            return Err(too_large(bytes_max));
        }
        let mut body = BytesMut::with_capacity(announced);
        while let Some(part) = found.body.next().await {
            let part = part.map_err(|error| broken(&error))?;
            if body.len() + part.len() > bytes_max {
                return Err(too_large(bytes_max));
            }
            body.extend_from_slice(&part);
        }
        Ok(body.freeze())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let root = self.key("");
        let mut pages = self
            .client
            .list_objects_v2()
            .bucket(&self.options.bucket)
            .prefix(self.key(prefix))
            .into_paginator()
            .send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = match page {
                Ok(page) => page,
                Err(error) if error.code() == Some("NoSuchBucket") => return Ok(Vec::new()),
                Err(error) => return Err(self.failed(error)),
            };
            for object in page.contents() {
                let name = object.key().and_then(|key| key.strip_prefix(&root)).and_then(Name::new);
                let bytes = object.size().and_then(|size| u64::try_from(size).ok());
                found.extend(name.map(|name| Entry { name, bytes }));
            }
            if found.len() > ENTRIES_MAX {
                return Err(too_large(ENTRIES_MAX));
            }
        }
        Ok(found)
    }

    async fn delete(&self, name: &Name) -> Result<(), StoreError> {
        let delete =
            self.client.delete_object().bucket(&self.options.bucket).key(self.key(name.as_str()));
        match delete.send().await.map_err(|error| self.failed(error)) {
            Err(error)
                if error.kind == StoreErrorKind::NotFound
                    || error.reason.starts_with("NoSuchBucket") =>
            {
                Ok(())
            }
            answer => answer.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_decides_scheme_and_region() {
        let options = |endpoint: &str, use_ssl| S3Options {
            endpoint: endpoint.to_owned(),
            use_ssl,
            ..S3Options::default()
        };
        for (endpoint, use_ssl, url, region) in [
            ("minio:9000", false, "http://minio:9000", NO_REGION),
            ("minio:9000", true, "https://minio:9000", NO_REGION),
            ("http://minio:9000", true, "http://minio:9000", NO_REGION),
            ("s3.amazonaws.com", true, "https://s3.amazonaws.com", NO_REGION),
            (
                "s3.eu-west-1.amazonaws.com:443",
                true,
                "https://s3.eu-west-1.amazonaws.com:443",
                "eu-west-1",
            ),
        ] {
            let options = options(endpoint, use_ssl);
            assert_eq!((options.url().as_str(), options.region().as_str()), (url, region));
        }
    }

    #[test]
    fn failures_are_told_apart() {
        for (status, code, expected) in [
            (Some(404), "NoSuchKey", StoreErrorKind::NotFound),
            (Some(404), "NoSuchBucket", StoreErrorKind::Lasting),
            (Some(403), "InvalidAccessKeyId", StoreErrorKind::Denied),
            (Some(503), "SlowDown", StoreErrorKind::Passing),
            (Some(500), "InternalError", StoreErrorKind::Passing),
            (Some(507), "XMinioStorageFull", StoreErrorKind::Full),
            (Some(501), "NotImplemented", StoreErrorKind::Lasting),
            (Some(400), "InvalidRequest", StoreErrorKind::Lasting),
            (None, "", StoreErrorKind::Passing),
        ] {
            assert_eq!(kind(status, code), expected, "{code}");
        }
    }
}
