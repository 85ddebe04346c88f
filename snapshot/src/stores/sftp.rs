//! A directory of an SSH server as a store.
//!
//! Owns: an object is written under a temporary name, synced and renamed where the server can, so
//! it is there whole or not at all. One connection, opened at the first request and again after a
//! failure. A crash leaves a file `.part-*`, which no name of an object is.

use super::part;
use super::sftp_link::Link;
use crate::name::Name;
use crate::store::{ENTRIES_MAX, Entry, Store, StoreError, StoreErrorKind, too_large};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use percent_encoding::percent_decode_str;
use reqwest::Url;
use russh_sftp::client::error::Error;
use russh_sftp::protocol::{FileAttributes, OpenFlags, Packet, Status, StatusCode};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Mutex;

/// The bytes of one request: what every server takes.
const PIECE_BYTES: usize = 32 << 10;
/// Requests of one object at the same time: 512 KiB are on their way.
const WINDOW: usize = 16;
/// The folders below the root, at most: `chunk/ab/`.
const DEPTH_MAX: usize = 4;
/// Where SSH keeps the keys of servers, in the home directory.
const KNOWN_HOSTS: &str = ".ssh/known_hosts";

/// Where the directory is, and the access to it.
#[derive(Clone)]
pub struct SftpOptions {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) path: String,
    pub(super) key_file: Option<PathBuf>,
    pub(super) known_hosts_file: PathBuf,
}

impl SftpOptions {
    /// Reads `sftp://user:password@host:port/path`. The password and the port may be missing;
    /// `/~/path` is a path in the user's home directory. Empty file names mean: no key;
    /// `~/.ssh/known_hosts`.
    ///
    /// # Errors
    /// The defect, without the text.
    pub fn parse(
        text: &str,
        key_file: PathBuf,
        known_hosts_file: PathBuf,
    ) -> Result<Self, &'static str> {
        const FORM: &str = "is not of the form sftp://user:password@host:port/path";
        let url = Url::parse(text).map_err(|_| FORM)?;
        let host = url.host_str().filter(|_| url.scheme() == "sftp").ok_or(FORM)?;
        let decoded = |text: &str| {
            let text = percent_decode_str(text).decode_utf8();
            text.map(std::borrow::Cow::into_owned).map_err(|_| FORM)
        };
        if url.query().is_some() || url.fragment().is_some() {
            return Err("has ? or # in it: write %3F and %23 in a password or a path");
        }
        let user = decoded(url.username())?;
        if user.is_empty() {
            return Err("names no user: write sftp://user@host/path");
        }
        let path = decoded(url.path())?;
        let path = path.strip_prefix("/~/").unwrap_or(&path).trim_end_matches('/').to_owned();
        if path.is_empty() {
            return Err("names no directory: write sftp://user@host/path");
        }
        let known_hosts_file = match known_hosts_file.as_os_str().is_empty() {
            true => std::env::home_dir().unwrap_or_default().join(KNOWN_HOSTS),
            false => known_hosts_file,
        };
        Ok(Self {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: url.port().unwrap_or(22),
            user,
            password: decoded(url.password().unwrap_or_default())?,
            path,
            key_file: Some(key_file).filter(|file| !file.as_os_str().is_empty()),
            known_hosts_file,
        })
    }
}

/// Objects as files of a server.
pub struct Sftp {
    options: Arc<SftpOptions>,
    link: Mutex<Option<Arc<Link>>>,
}

impl Sftp {
    /// Returns the store. Connects at the first request.
    pub fn new(options: SftpOptions) -> Self {
        Self { options: Arc::new(options), link: Mutex::new(None) }
    }

    async fn link(&self) -> Result<Arc<Link>, StoreError> {
        let mut link = self.link.lock().await;
        if let Some(link) = &*link {
            return Ok(Arc::clone(link));
        }
        let opened = Arc::new(Link::open(&self.options).await?);
        *link = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// Does something over the connection. After a failure that is no answer of the server the next
    /// request opens a new one.
    async fn over<T>(
        &self,
        work: impl AsyncFnOnce(&Link) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let link = self.link().await?;
        let failure = match work(&link).await {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        if !matches!(failure, Failure::Sftp(Error::Status(_)) | Failure::Ours(_)) {
            let mut current = self.link.lock().await;
            if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &link)) {
                *current = None;
            }
        }
        Err(failure.into())
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.options.path)
    }

    async fn put_part(&self, link: &Link, from: &str, body: &Bytes) -> Result<(), Failure> {
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::TRUNCATE;
        let open = async || link.sftp.open(from, flags, FileAttributes::empty()).await;
        let file = match open().await {
            Err(error) if is(&error, StatusCode::NoSuchFile) => {
                self.create_folders(link, from).await?;
                open().await?
            }
            file => file?,
        };
        let handle = file.handle.as_str();
        let write = async |at: usize| {
            let part = body.slice(at..body.len().min(at + PIECE_BYTES));
            link.sftp.write(handle, at as u64, part.to_vec()).await.map(drop)
        };
        let written = stream::iter((0..body.len()).step_by(PIECE_BYTES))
            .map(write)
            .buffer_unordered(WINDOW)
            .try_collect::<()>()
            .await;
        let synced = match written {
            Ok(()) if link.syncs => link.sftp.fsync(handle).await.map(drop),
            written => written,
        };
        let closed = link.sftp.close(handle).await.map(drop);
        match synced.and(closed) {
            Err(error) if is(&error, StatusCode::Failure) && is_full(link, from, body).await => {
                let reason = "no space is left on the server's file system".to_owned();
                Err(Failure::Ours(StoreError::new(StoreErrorKind::Full, reason)))
            }
            done => Ok(done?),
        }
    }

    /// Creates the folders above a file.
    async fn create_folders(&self, link: &Link, file: &str) -> Result<(), Failure> {
        let folders = file.match_indices('/').filter(|(at, _)| *at > 0).map(|(at, _)| &file[..at]);
        let mut last = Ok(());
        for folder in folders {
            // Servers report a folder that exists as a failure: the file's open decides.
            last = link.sftp.mkdir(folder, FileAttributes::empty()).await.map(drop);
        }
        match last {
            Err(error) if !matches!(error, Error::Status(_)) => Err(error.into()),
            Err(error) if is(&error, StatusCode::PermissionDenied) => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn read_range(
        link: &Link,
        path: &str,
        range: Option<Range<u64>>,
        bytes_max: usize,
    ) -> Result<Bytes, Failure> {
        let file = link.sftp.open(path, OpenFlags::READ, FileAttributes::empty()).await?;
        let handle = file.handle.as_str();
        let read = async {
            let bytes = link.sftp.fstat(handle).await?.attrs.size.unwrap_or(0);
            let range = range.unwrap_or(0..bytes);
            let range = range.start.min(bytes)..range.end.min(bytes);
            if range.end.saturating_sub(range.start) > bytes_max as u64 {
                return Err(Failure::Ours(too_large(bytes_max)));
            }
            let mut body = BytesMut::with_capacity(range.end.saturating_sub(range.start) as usize);
            let mut pieces = stream::iter(range.clone().step_by(PIECE_BYTES))
                .map(|at| piece(link, handle, at..range.end.min(at + PIECE_BYTES as u64)))
                .buffered(WINDOW);
            while let Some(piece) = pieces.try_next().await? {
                body.extend_from_slice(&piece);
            }
            Ok(body.freeze())
        };
        let body = read.await;
        // What was read is what counts.
        let _ = link.sftp.close(handle).await;
        body
    }

    /// Lists all files below a folder: path below the root and size.
    async fn walk(link: &Link, root: &str, folder: &str) -> Result<Vec<Listed>, Failure> {
        let mut files = Vec::new();
        let mut level = vec![folder.to_owned()];
        for _ in 0..=DEPTH_MAX {
            let lists: Vec<_> = stream::iter(level)
                .map(|folder| list_folder(link, root, folder))
                .buffer_unordered(WINDOW)
                .try_collect()
                .await?;
            level = Vec::new();
            for listed in lists.into_iter().flatten() {
                match listed.is_folder {
                    // Folders of other programs are not ours to read.
                    true if Name::new(listed.path.as_str()).is_some() => level.push(listed.path),
                    true => {}
                    false => files.push(listed),
                }
            }
            if files.len() > ENTRIES_MAX {
                return Err(Failure::Ours(too_large(ENTRIES_MAX)));
            }
        }
        Ok(files)
    }
}

struct Listed {
    path: String,
    is_folder: bool,
    bytes: Option<u64>,
}

async fn list_folder(link: &Link, root: &str, folder: String) -> Result<Vec<Listed>, Failure> {
    let at = if folder.is_empty() { root.to_owned() } else { format!("{root}/{folder}") };
    let handle = match link.sftp.opendir(at).await {
        Err(error) if is(&error, StatusCode::NoSuchFile) => return Ok(Vec::new()),
        opened => opened?.handle,
    };
    let mut found = Vec::new();
    let ended = loop {
        match link.sftp.readdir(handle.as_str()).await {
            Ok(part) => {
                for file in part.files {
                    let is_this = file.filename == "." || file.filename == "..";
                    let path = match folder.as_str() {
                        "" => file.filename,
                        folder => format!("{folder}/{}", file.filename),
                    };
                    let (is_folder, bytes) = (file.attrs.is_dir(), file.attrs.size);
                    found.extend((!is_this).then_some(Listed { path, is_folder, bytes }));
                }
                if found.len() > ENTRIES_MAX {
                    break Err(Failure::Ours(too_large(ENTRIES_MAX)));
                }
            }
            Err(error) if is(&error, StatusCode::Eof) => break Ok(found),
            Err(error) => break Err(error.into()),
        }
    };
    let _ = link.sftp.close(handle).await;
    ended
}

/// Reads one piece; a server may answer with less than asked for.
async fn piece(link: &Link, handle: &str, range: Range<u64>) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    loop {
        let at = range.start + body.len() as u64;
        if at >= range.end {
            return Ok(body);
        }
        match link.sftp.read(handle, at, (range.end - at) as u32).await {
            Ok(data) if data.data.len() as u64 <= range.end - at && !data.data.is_empty() => {
                body.extend_from_slice(&data.data);
            }
            Ok(_) => {
                let reason = "the server answers with another length than asked for";
                return Err(Failure::Ours(StoreError::new(StoreErrorKind::Lasting, reason)));
            }
            // The file became shorter.
            Err(error) if is(&error, StatusCode::Eof) => return Ok(body),
            Err(error) => return Err(error.into()),
        }
    }
}

async fn is_full(link: &Link, file: &str, body: &Bytes) -> bool {
    let folder = file.rsplit_once('/').map_or(".", |(folder, _)| folder);
    if !link.tells_free_space {
        return false;
    }
    let found = link.sftp.statvfs(folder).await;
    found.is_ok_and(|fs| fs.blocks_avail.saturating_mul(fs.fragment_size) < body.len() as u64)
}

async fn rename(link: &Link, from: &str, to: &str) -> Result<(), Failure> {
    if !link.renames_over {
        // A crash in between leaves no object of this name.
        match link.sftp.remove(to).await {
            Err(error) if !is(&error, StatusCode::NoSuchFile) => return Err(error.into()),
            _ => {}
        }
        return Ok(link.sftp.rename(from, to).await.map(drop)?);
    }
    let mut data = Vec::with_capacity(from.len() + to.len() + 8);
    for path in [from, to] {
        data.extend_from_slice(&u32::try_from(path.len()).unwrap_or(0).to_be_bytes());
        data.extend_from_slice(path.as_bytes());
    }
    match link.sftp.extended("posix-rename@openssh.com", data).await? {
        Packet::Status(Status { status_code: StatusCode::Ok, .. }) => Ok(()),
        Packet::Status(status) => Err(Error::Status(status).into()),
        _ => Err(Error::UnexpectedPacket.into()),
    }
}

fn is(error: &Error, code: StatusCode) -> bool {
    matches!(error, Error::Status(status) if status.status_code == code)
}

/// Why something was not done.
enum Failure {
    Sftp(Error),
    Ours(StoreError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Sftp(error)
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        let error = match failure {
            Failure::Ours(error) => return error,
            Failure::Sftp(error) => error,
        };
        let kind = match &error {
            Error::Status(status) => match status.status_code {
                StatusCode::NoSuchFile => StoreErrorKind::NotFound,
                StatusCode::PermissionDenied => StoreErrorKind::Denied,
                StatusCode::ConnectionLost | StatusCode::NoConnection => StoreErrorKind::Passing,
                _ => StoreErrorKind::Lasting,
            },
            _ => StoreErrorKind::Passing,
        };
        StoreError::new(kind, error.to_string())
    }
}

#[async_trait]
impl Store for Sftp {
    fn place(&self) -> String {
        let SftpOptions { host, port, user, path, .. } = &*self.options;
        format!("SFTP directory {path} of {user}@{host}:{port}")
    }

    async fn put(&self, name: &Name, body: Bytes) -> Result<(), StoreError> {
        let to = self.path(name.as_str());
        let folder = to.rsplit_once('/').map_or("", |(folder, _)| folder);
        let from = format!("{folder}/{}", part::name());
        self.over(async |link| {
            let done = match self.put_part(link, &from, &body).await {
                Ok(()) => rename(link, &from, &to).await,
                failed => failed,
            };
            if done.is_err() {
                // What cannot be removed now is removed by `sweep`.
                let _ = link.sftp.remove(from.as_str()).await;
            }
            done
        })
        .await
    }

    async fn get(
        &self,
        name: &Name,
        range: Option<Range<u64>>,
        bytes_max: usize,
    ) -> Result<Bytes, StoreError> {
        let path = self.path(name.as_str());
        self.over(async |link| Self::read_range(link, &path, range, bytes_max).await).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let root = self.options.path.as_str();
        let files = self.over(async |link| Self::walk(link, root, folder).await).await?;
        let named = files.into_iter().filter_map(|Listed { path, bytes, .. }| {
            let name = Name::new(path).filter(|name| name.as_str().starts_with(prefix))?;
            Some(Entry { name, bytes })
        });
        Ok(named.collect())
    }

    async fn delete(&self, name: &Name) -> Result<(), StoreError> {
        let path = self.path(name.as_str());
        self.over(async |link| match link.sftp.remove(path).await {
            Err(error) if !is(&error, StatusCode::NoSuchFile) => Err(error.into()),
            _ => Ok(()),
        })
        .await
    }

    async fn sweep(&self) -> Result<u64, StoreError> {
        let root = self.options.path.as_str();
        self.over(async |link| {
            let mut removed = 0;
            for Listed { path, .. } in Self::walk(link, root, "").await? {
                if part::is_left(path.rsplit('/').next().unwrap_or_default()) {
                    link.sftp.remove(format!("{root}/{path}")).await?;
                    removed += 1;
                }
            }
            Ok(removed)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_go_user_is_read() {
        let parse = |text| SftpOptions::parse(text, "".into(), "/k".into());
        let options = parse("sftp://ann:p%40ss%2F@[::1]:2222/srv/a%20b/").unwrap();
        assert_eq!((options.host.as_str(), options.port), ("::1", 2222));
        assert_eq!((options.user.as_str(), options.password.as_str()), ("ann", "p@ss/"));
        assert_eq!((options.path.as_str(), options.key_file), ("/srv/a b", None));
        let options = parse("sftp://ann@host/~/backup").unwrap();
        assert_eq!((options.path.as_str(), options.port), ("backup", 22));
        for bad in ["host:/x", "http://a@h/x", "sftp://h/x", "sftp://a@h", "sftp://a:b?c@h/x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
