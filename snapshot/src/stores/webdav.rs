//! A folder of a WebDAV server as a store.
//!
//! Owns: an object is put under a temporary name and moved, so it is there whole or not at all.
//! Credentials are sent only after the server has asked for them, and never to another server:
//! redirects are refused. A crash leaves a file `.part-*`, which no name of an object is.

use super::part;
use super::webdav_listing::{Listed, PROPFIND, parse};
use crate::name::Name;
use crate::store::{ENTRIES_MAX, Entry, Store, StoreError, StoreErrorKind, too_large};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use digest_auth::{AuthContext, HttpMethod, WwwAuthenticateHeader};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use reqwest::header::{AUTHORIZATION, HeaderValue, LOCATION, RANGE, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, StatusCode, Url};
use std::ops::Range;
use std::time::Duration;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Folders that are listed at the same time.
const PARALLEL: usize = 8;
/// The folders below the root, at most: `chunk/ab/`.
const DEPTH_MAX: usize = 4;
/// The longest list of one folder: 100,000 entries.
const LIST_BYTES_MAX: usize = 64 << 20;

/// Where the folder is, and the access to it.
#[derive(Clone)]
pub struct WebDavOptions {
    root: Url,
    login: String,
    secret: String,
}

impl WebDavOptions {
    /// Reads `https://host/path?dir=/folder&login=user&secret=password`. The three parameters may
    /// be missing.
    ///
    /// # Errors
    /// The defect, without the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str =
            "is not of the form https://host/path?dir=/folder&login=user&secret=password";
        let mut root = Url::parse(text).map_err(|_| FORM)?;
        if !["http", "https"].contains(&root.scheme()) || !root.has_host() {
            return Err("does not begin with https:// or http:// and a host");
        }
        let (mut dir, mut login, mut secret) = (String::new(), String::new(), String::new());
        for (key, value) in root.query_pairs() {
            match key.as_ref() {
                "dir" => dir = value.into_owned(),
                "login" => login = value.into_owned(),
                "secret" => secret = value.into_owned(),
                _ => return Err("has a parameter that is none of dir, login and secret"),
            }
        }
        if !root.username().is_empty() || root.password().is_some() {
            return Err("has a user before the host: write ?login=user&secret=password after it");
        }
        root.set_query(None);
        root.set_fragment(None);
        let parts = dir.split('/').filter(|part| !part.is_empty());
        root.path_segments_mut().map_err(|()| FORM)?.pop_if_empty().extend(parts);
        Ok(Self { root, login, secret })
    }
}

/// How the server wants to know who asks.
enum Access {
    /// Nothing was asked yet.
    Open,
    Basic,
    Digest(Box<WwwAuthenticateHeader>),
}

/// Objects as files in a folder.
pub struct WebDav {
    client: Client,
    options: WebDavOptions,
    access: Mutex<Access>,
}

impl WebDav {
    /// Returns the store. Connects at the first request.
    ///
    /// # Errors
    /// The certificates of this system cannot be read.
    pub fn new(options: WebDavOptions) -> Result<Self, StoreError> {
        // One for the process; another may have set it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().connect_timeout(CONNECT).redirect(Policy::none()).build();
        let client = client.map_err(|error| {
            StoreError::new(StoreErrorKind::Lasting, format!("no HTTP client: {error}"))
        })?;
        Ok(Self { client, options, access: Mutex::new(Access::Open) })
    }

    /// The address of an object, a folder (with a slash at its end) or a temporary file.
    fn url(&self, path: &str) -> Url {
        let mut url = self.options.root.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path.split('/'));
        }
        url
    }

    /// Sends a request; twice if the server asks who we are.
    async fn send(
        &self,
        method: &str,
        url: &Url,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<Response, StoreError> {
        let name = Method::from_bytes(method.as_bytes()).map_err(|_| unexpected(method))?;
        let mut is_asked = false;
        loop {
            let mut request = self.client.request(name.clone(), url.clone());
            for (key, value) in headers {
                request = request.header(*key, *value);
            }
            if let Some(who) = self.authorization(method, url)? {
                request = request.header(AUTHORIZATION, who);
            }
            let answer = request.body(body.clone()).send().await.map_err(broken)?;
            if answer.status() != StatusCode::UNAUTHORIZED || is_asked || !self.learn(&answer) {
                return Ok(answer);
            }
            is_asked = true;
        }
    }

    fn authorization(&self, method: &str, url: &Url) -> Result<Option<HeaderValue>, StoreError> {
        let WebDavOptions { login, secret, .. } = &self.options;
        let text = match &mut *self.access.lock() {
            Access::Open => return Ok(None),
            Access::Basic => {
                let pair = format!("{login}:{secret}");
                format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes()))
            }
            Access::Digest(asked) => {
                let mut context = AuthContext::new(login, secret, url.path());
                context.method = HttpMethod::from(method.to_owned());
                asked.respond(&context).map_err(|_| unexpected("digest"))?.to_header_string()
            }
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| unexpected("login"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// Reads what a refusal asks for. Returns whether another attempt may help.
    fn learn(&self, refusal: &Response) -> bool {
        if self.options.login.is_empty() {
            return false;
        }
        let asked = refusal.headers().get_all(WWW_AUTHENTICATE).iter();
        let asked: Vec<_> = asked.filter_map(|value| value.to_str().ok()).collect();
        let digest = asked.iter().find(|text| text.to_ascii_lowercase().starts_with("digest "));
        let mut access = self.access.lock();
        if let Some(digest) = digest.and_then(|text| digest_auth::parse(text).ok()) {
            *access = Access::Digest(Box::new(digest));
            return true;
        }
        let is_new = matches!(*access, Access::Open);
        *access = Access::Basic;
        is_new
    }

    /// Creates the folders of a path below the root, and the root itself.
    async fn create_folders(&self, path: &str) -> Result<(), StoreError> {
        let parts: Vec<_> = self.options.root.path_segments().into_iter().flatten().collect();
        let mut folders = Vec::new();
        for depth in 1..=parts.len() {
            let mut url = self.options.root.clone();
            url.set_path(&parts[..depth].join("/"));
            folders.push(url);
        }
        let mut below = String::new();
        for part in path.split('/').rev().skip(1).collect::<Vec<_>>().into_iter().rev() {
            below = if below.is_empty() { part.to_owned() } else { format!("{below}/{part}") };
            folders.push(self.url(&below));
        }
        let mut refused = Ok(());
        for mut url in folders {
            if !url.path().ends_with('/') {
                url.set_path(&format!("{}/", url.path()));
            }
            let answer = self.send("MKCOL", &url, &[], Bytes::new()).await?;
            // 405, 301: it exists. A folder above the root may be refused: the last one counts.
            refused = match answer.status().as_u16() {
                200..=299 | 405 | 301 => Ok(()),
                _ => Err(failed("create a folder", &answer)),
            };
        }
        refused
    }

    async fn put_part(&self, url: &Url, body: &Bytes) -> Result<StatusCode, StoreError> {
        let headers = [("content-type", "application/octet-stream")];
        let answer = self.send("PUT", url, &headers, body.clone()).await?;
        match answer.status() {
            status if status.is_success() => Ok(status),
            // There is no such folder.
            status @ (StatusCode::CONFLICT | StatusCode::NOT_FOUND) => Ok(status),
            _ => Err(failed("write", &answer)),
        }
    }

    /// Writes a temporary file and moves it. The caller removes it after a failure.
    async fn put_and_move(&self, from: &Url, name: &Name, body: Bytes) -> Result<(), StoreError> {
        if !self.put_part(from, &body).await?.is_success() {
            self.create_folders(name.as_str()).await?;
            let status = self.put_part(from, &body).await?;
            if !status.is_success() {
                let reason = format!("the server refuses a new file with status {status}");
                return Err(StoreError::new(StoreErrorKind::Lasting, reason));
            }
        }
        let to = self.url(name.as_str());
        let headers = [("destination", to.as_str()), ("overwrite", "T")];
        let answer = self.send("MOVE", from, &headers, Bytes::new()).await?;
        if answer.status().is_success() { Ok(()) } else { Err(failed("rename", &answer)) }
    }

    /// Lists one folder.
    async fn folder(&self, path: &str) -> Result<Vec<Listed>, StoreError> {
        let mut url = if path.is_empty() { self.options.root.clone() } else { self.url(path) };
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let headers = [("depth", "1"), ("content-type", "application/xml; charset=utf-8")];
        let answer = self.send("PROPFIND", &url, &headers, Bytes::from_static(PROPFIND)).await?;
        match answer.status().as_u16() {
            207 => parse(&read(answer, LIST_BYTES_MAX).await?),
            404 => Ok(Vec::new()),
            405 | 501 => {
                let reason = "the server does not speak WebDAV at this address; check the path in \
                    snapshot.webdav.url";
                Err(StoreError::new(StoreErrorKind::Lasting, reason))
            }
            _ => Err(failed("list", &answer)),
        }
    }

    /// Lists all files below a folder: path and size.
    async fn walk(&self, folder: String) -> Result<Vec<(String, Option<u64>)>, StoreError> {
        let mut files = Vec::new();
        let mut level = vec![folder];
        for _ in 0..=DEPTH_MAX {
            let lists: Vec<_> = stream::iter(level)
                .map(async |path: String| self.folder(&path).await.map(|list| (path, list)))
                .buffer_unordered(PARALLEL)
                .try_collect()
                .await?;
            level = Vec::new();
            for (path, listed) in lists {
                for entry in listed {
                    let below =
                        if path.is_empty() { entry.name } else { format!("{path}/{}", entry.name) };
                    if entry.is_folder {
                        level.push(below);
                    } else {
                        files.push((below, entry.bytes));
                    }
                }
            }
            // Folders of other programs are not ours to read.
            level.retain(|path| Name::new(path.as_str()).is_some());
            if files.len() > ENTRIES_MAX {
                return Err(too_large(ENTRIES_MAX));
            }
        }
        Ok(files)
    }
}

fn unexpected(what: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Lasting, format!("{what} cannot be written in a request"))
}

fn broken(error: reqwest::Error) -> StoreError {
    super::broken(&error.without_url())
}

fn failed(action: &str, answer: &Response) -> StoreError {
    let (kind, advice) = match answer.status().as_u16() {
        404 | 410 => (StoreErrorKind::NotFound, ""),
        401 => (StoreErrorKind::Denied, "; check login and secret in snapshot.webdav.url"),
        403 => (StoreErrorKind::Denied, ""),
        413 => (StoreErrorKind::TooLarge, "; raise the limit of the server"),
        507 => (StoreErrorKind::Full, ""),
        408 | 423 | 425 | 429 | 500 | 502..=504 => (StoreErrorKind::Passing, ""),
        300..=399 => (StoreErrorKind::Lasting, "; write that address into snapshot.webdav.url"),
        _ => (StoreErrorKind::Lasting, ""),
    };
    let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok());
    let to = to.map_or(String::new(), |to| {
        format!(" (redirected to {})", to.split(['?', '#']).next().unwrap_or_default())
    });
    let status = answer.status();
    StoreError::new(kind, format!("cannot {action}: status {status}{to}{advice}"))
}

/// Reads a body, which must not be larger.
async fn read(mut answer: Response, bytes_max: usize) -> Result<Bytes, StoreError> {
    let announced = usize::try_from(answer.content_length().unwrap_or(0)).unwrap_or(usize::MAX);
    if announced > bytes_max {
        return Err(too_large(bytes_max));
    }
    let mut body = BytesMut::with_capacity(announced);
    while let Some(part) = answer.chunk().await.map_err(broken)? {
        if body.len() + part.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

/// Reads a range of a body. The rest is not awaited.
async fn read_range(
    mut answer: Response,
    range: Range<u64>,
    bytes_max: usize,
) -> Result<Bytes, StoreError> {
    let (mut at, mut body) = (0, BytesMut::new());
    while at < range.end {
        let Some(part) = answer.chunk().await.map_err(broken)? else { break };
        let end = at + part.len() as u64;
        if end.min(range.end).saturating_sub(range.start) > bytes_max as u64 {
            return Err(too_large(bytes_max));
        }
        let (from, to) = (range.start.clamp(at, end), range.end.clamp(at, end));
        body.extend_from_slice(&part[(from - at) as usize..(to - at) as usize]);
        at = end;
    }
    Ok(body.freeze())
}

#[async_trait]
impl Store for WebDav {
    fn place(&self) -> String {
        let path = percent_decode_str(self.options.root.path()).decode_utf8_lossy();
        let mut url = self.options.root.clone();
        url.set_path("");
        format!("WebDAV folder {}{}", url.as_str().trim_end_matches('/'), path)
    }

    async fn put(&self, name: &Name, body: Bytes) -> Result<(), StoreError> {
        let folder = name.as_str().rsplit_once('/').map_or("", |(folder, _)| folder);
        let part = part::name();
        let from = self.url(&if folder.is_empty() { part } else { format!("{folder}/{part}") });
        let done = self.put_and_move(&from, name, body).await;
        if done.is_err() {
            // What cannot be removed now is removed by `sweep`.
            let _ = self.send("DELETE", &from, &[], Bytes::new()).await;
        }
        done
    }

    async fn get(
        &self,
        name: &Name,
        range: Option<Range<u64>>,
        bytes_max: usize,
    ) -> Result<Bytes, StoreError> {
        let url = self.url(name.as_str());
        let Some(range) = range else {
            let answer = self.send("GET", &url, &[], Bytes::new()).await?;
            return match answer.status() {
                StatusCode::OK => read(answer, bytes_max).await,
                _ => Err(failed("read", &answer)),
            };
        };
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let wanted = format!("bytes={}-{}", range.start, range.end - 1);
        let answer = self.send("GET", &url, &[(RANGE.as_str(), &wanted)], Bytes::new()).await?;
        match answer.status().as_u16() {
            206 => read(answer, bytes_max).await,
            // A server without ranges sends all of it.
            200 => read_range(answer, range, bytes_max).await,
            416 => Ok(Bytes::new()),
            _ => Err(failed("read", &answer)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let files = self.walk(folder.to_owned()).await?;
        let named = files.into_iter().filter_map(|(path, bytes)| {
            let name = Name::new(path).filter(|name| name.as_str().starts_with(prefix))?;
            Some(Entry { name, bytes })
        });
        Ok(named.collect())
    }

    async fn delete(&self, name: &Name) -> Result<(), StoreError> {
        let answer = self.send("DELETE", &self.url(name.as_str()), &[], Bytes::new()).await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(()),
            status if status.is_success() => Ok(()),
            _ => Err(failed("delete", &answer)),
        }
    }

    async fn sweep(&self) -> Result<u64, StoreError> {
        let mut removed = 0;
        for (path, _) in self.walk(String::new()).await? {
            if part::is_left(path.rsplit('/').next().unwrap_or_default()) {
                let answer = self.send("DELETE", &self.url(&path), &[], Bytes::new()).await?;
                removed += u64::from(answer.status().is_success());
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_of_a_go_user_are_read() {
        let url = "https://host:8443/remote.php/dav?dir=/my%20backups/a&login=ann&secret=p%26w";
        let options = WebDavOptions::parse(url).unwrap();
        assert_eq!(options.root.as_str(), "https://host:8443/remote.php/dav/my%20backups/a");
        assert_eq!((options.login.as_str(), options.secret.as_str()), ("ann", "p&w"));
        let store = WebDav::new(options).unwrap();
        assert_eq!(store.place(), "WebDAV folder https://host:8443/remote.php/dav/my backups/a");
        for bad in ["host/path", "ftp://host", "https://u:p@host/", "https://host/?token=x"] {
            assert!(WebDavOptions::parse(bad).is_err(), "{bad}");
        }
    }
}
