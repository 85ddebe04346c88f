//! Real servers for snapshots: S3 (s3s-fs), WebDAV (dav-server), SFTP (OpenSSH's sshd).
//!
//! Each keeps its objects as files below one directory, and ends with its value.

use crate::{Process, eventually, free_port};
use dav_server::{DavHandler, fakels::FakeLs, localfs::LocalFs};
use digest_auth::{AuthContext, AuthorizationHeader, HttpMethod};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use hyper::service::{Service, service_fn};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use std::convert::Infallible;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// The password of each server's user.
pub const PASSWORD: &str = "pass word@1";

/// Requests that fail, for a server in this process.
#[derive(Default)]
pub struct Faults {
    /// The requests that still succeed; negative: all.
    left: AtomicI64,
    /// How the others are answered.
    status: AtomicU16,
    /// Whether only writes of chunks are counted and fail.
    only_chunks: AtomicBool,
    /// The requests for chunks that are still answered by [`s3`]; the next ones wait. Negative:
    /// all are answered.
    answered: AtomicI64,
    /// All requests.
    requests: AtomicU64,
}

impl Faults {
    /// After `succeed` further requests all are answered with `status`.
    pub fn fail_after(&self, succeed: u32, status: u16) {
        self.only_chunks.store(false, Ordering::SeqCst);
        self.status.store(status, Ordering::SeqCst);
        self.left.store(succeed.into(), Ordering::SeqCst);
    }

    /// After `succeed` further writes of chunks all of them are answered with `status`.
    pub fn fail_chunks_after(&self, succeed: u32, status: u16) {
        self.fail_after(succeed, status);
        self.only_chunks.store(true, Ordering::SeqCst);
    }

    /// [`s3`] answers `count` further requests for chunks, and lets the next ones wait.
    pub fn stall_chunks_after(&self, count: u32) {
        self.answered.store(count.into(), Ordering::SeqCst);
    }

    /// All requests succeed.
    pub fn heal(&self) {
        self.left.store(-1, Ordering::SeqCst);
        self.answered.store(-1, Ordering::SeqCst);
    }

    async fn stall(&self, is_chunk: bool) {
        let less = |left: i64| (left > 0).then(|| left - 1);
        while is_chunk
            && self.answered.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) == Err(0)
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Returns how many requests there were.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    fn next(&self, request: &Request<Incoming>) -> Option<StatusCode> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let is_chunk = request.method() == "PUT" && request.uri().path().contains("/chunk/");
        if self.only_chunks.load(Ordering::SeqCst) && !is_chunk {
            return None;
        }
        let less = |left: i64| (left > 0).then(|| left - 1);
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
            Err(0) => Some(StatusCode::from_u16(self.status.load(Ordering::SeqCst)).unwrap()),
            _ => None,
        }
    }
}

/// A server in this process.
pub struct HttpStore {
    /// Where its objects are.
    pub root: PathBuf,
    /// What belongs into `[snapshot]`, or into an entry of `[[snapshot.also]]`.
    pub settings: String,
    pub faults: Arc<Faults>,
    pub port: u16,
    _runtime: Runtime,
}

/// Starts an S3 server with the bucket `backup` and objects below `shop/db`. The bucket does not
/// exist yet.
pub fn s3(dir: &Path) -> HttpStore {
    let root = dir.join("s3");
    std::fs::create_dir_all(&root).unwrap();
    let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(&root).unwrap());
    service.set_auth(SimpleAuth::from_single("key", PASSWORD));
    let service = service.build();
    let faults = Arc::new(Faults::default());
    faults.heal();
    let seen = Arc::clone(&faults);
    let (runtime, port) = serve(move |stream| {
        let (service, seen) = (service.clone(), Arc::clone(&seen));
        async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let fault = seen.next(&request);
                let is_chunk = request.uri().path().contains("/chunk/");
                let answer = fault.is_none().then(|| Service::call(&service, request));
                let seen = Arc::clone(&seen);
                async move {
                    seen.stall(is_chunk).await;
                    match answer {
                        Some(answer) => answer.await.map_err(|error| format!("{error:?}")),
                        None => failing(fault.unwrap(), s3s::Body::empty()),
                    }
                }
            });
            let server = auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), answer).await;
        }
    });
    let settings = format!(
        "store = \"s3\"\ns3.endpoint = \"127.0.0.1:{port}\"\ns3.bucket = \"backup\"\ns3.path = \
        \"shop/db\"\ns3.access_key = \"key\"\ns3.secret = \"{PASSWORD}\"\n"
    );
    HttpStore { root: root.join("backup/shop/db"), settings, faults, port, _runtime: runtime }
}

fn failing<B>(status: StatusCode, empty: B) -> Result<Response<B>, String> {
    let mut answer = Response::new(empty);
    *answer.status_mut() = status;
    Ok(answer)
}

/// Starts a WebDAV server with a user; objects are below `dav/shop`, which does not exist yet.
pub fn webdav(dir: &Path) -> HttpStore {
    // user:PASSWORD
    let basic = "Basic dXNlcjpwYXNzIHdvcmRAMQ==";
    webdav_for(dir, move |request, _| {
        let is_known = request.headers().get(AUTHORIZATION).is_some_and(|who| who == basic);
        if is_known { Ok(()) } else { Err("Basic realm=\"test\"".to_owned()) }
    })
}

/// Does the same with digest authentication. Every 50 requests another nonce is wanted.
pub fn webdav_digest(dir: &Path) -> HttpStore {
    webdav_for(dir, |request, requests| {
        let nonce = format!("nonce{}", requests / 50);
        let asked = format!("Digest realm=\"test\", qop=\"auth\", nonce=\"{nonce}\"");
        let header = request.headers().get(AUTHORIZATION).and_then(|who| who.to_str().ok());
        let Some(Ok(told)) = header.map(AuthorizationHeader::parse) else { return Err(asked) };
        let method = HttpMethod::from(request.method().to_string());
        let path = request.uri().path();
        let context = AuthContext::new_with_method("user", PASSWORD, path, None::<&[u8]>, method);
        let mut right = told.clone();
        right.digest(&context);
        if right.response == told.response && told.nonce == nonce { Ok(()) } else { Err(asked) }
    })
}

fn webdav_for(
    dir: &Path,
    knows: impl Fn(&Request<Incoming>, u64) -> Result<(), String> + Send + Sync + 'static,
) -> HttpStore {
    let knows = Arc::new(knows);
    let root = dir.join("webdav");
    std::fs::create_dir_all(&root).unwrap();
    let handler = DavHandler::builder()
        .filesystem(LocalFs::new(&root, false, false, false))
        .locksystem(FakeLs::new())
        .build_handler();
    let faults = Arc::new(Faults::default());
    faults.heal();
    let seen = Arc::clone(&faults);
    let (runtime, port) = serve(move |stream| {
        let (handler, seen, knows) = (handler.clone(), Arc::clone(&seen), Arc::clone(&knows));
        async move {
            let answer = service_fn(move |request: Request<Incoming>| {
                let fault = seen.next(&request);
                let known = knows(&request, seen.requests());
                let handler = handler.clone();
                async move {
                    let empty = dav_server::body::Body::empty();
                    let answer = match (fault, known) {
                        (Some(status), _) => failing(status, empty).unwrap(),
                        (None, Ok(())) => handler.handle(request).await,
                        (None, Err(asked)) => {
                            let mut denied = failing(StatusCode::UNAUTHORIZED, empty).unwrap();
                            let asked = HeaderValue::from_str(&asked).unwrap();
                            denied.headers_mut().insert(WWW_AUTHENTICATE, asked);
                            denied
                        }
                    };
                    Ok::<_, Infallible>(answer)
                }
            });
            let server = hyper::server::conn::http1::Builder::new();
            let _ = server.serve_connection(TokioIo::new(stream), answer).await;
        }
    });
    let settings = format!(
        "store = \"webdav\"\nwebdav.url = \
        \"http://127.0.0.1:{port}/?dir=/dav/shop&login=user&secret=pass%20word@1\"\n"
    );
    HttpStore { root: root.join("dav/shop"), settings, faults, port, _runtime: runtime }
}

/// Accepts connections on a port of its own.
fn serve<F>(connection: impl Fn(tokio::net::TcpStream) -> F + Send + 'static) -> (Runtime, u16)
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
    let port = listener.local_addr().unwrap().port();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream));
        }
    });
    (runtime, port)
}

/// OpenSSH's own server, for the user of this process, with a key pair and a host key made for it.
pub struct Sshd {
    /// Where its objects are.
    pub root: PathBuf,
    /// What belongs into `[snapshot]`, or into an entry of `[[snapshot.also]]`.
    pub settings: String,
    pub known_hosts: PathBuf,
    pub key: PathBuf,
    pub port: u16,
    config: PathBuf,
    process: Process,
}

impl Sshd {
    /// Starts it.
    pub fn start(dir: &Path) -> Self {
        let dir = dir.join("sshd");
        std::fs::create_dir_all(&dir).unwrap();
        for (name, kind) in [("host_rsa", "rsa"), ("host_ed25519", "ed25519"), ("user", "ed25519")]
        {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-N", "", "-t", kind, "-f"])
                .arg(dir.join(name))
                .status();
            assert!(made.expect("ssh-keygen, of the package openssh-client").success());
        }
        let port = free_port();
        let config = dir.join("sshd_config");
        let dir_name = dir.display();
        std::fs::copy(dir.join("user.pub"), dir.join("authorized_keys")).unwrap();
        std::fs::write(
            &config,
            format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {dir_name}/host_rsa\nHostKey \
                {dir_name}/host_ed25519\nPidFile none\nUsePAM no\nStrictModes no\n\
                AuthorizedKeysFile {dir_name}/authorized_keys\nPermitRootLogin yes\n\
                PasswordAuthentication no\nSubsystem sftp internal-sftp\n"
            ),
        )
        .unwrap();
        // Only one of the host's two keys is known, and not the one that clients like best.
        let key = std::fs::read_to_string(dir.join("host_rsa.pub")).unwrap();
        let known_hosts = dir.join("known_hosts");
        std::fs::write(&known_hosts, format!("[127.0.0.1]:{port} {key}")).unwrap();
        let root = dir.join("data/shop");
        let user = Command::new("id").arg("-un").output().unwrap();
        let settings = format!(
            "store = \"sftp\"\nsftp.url = \"sftp://{}@127.0.0.1:{port}{}\"\nsftp.key_file = \
            \"{dir_name}/user\"\nsftp.known_hosts_file = \"{dir_name}/known_hosts\"\n",
            String::from_utf8(user.stdout).unwrap().trim(),
            root.display(),
        );
        let process = run_sshd(&config, port);
        Self { root, settings, known_hosts, key: dir.join("user"), port, config, process }
    }

    /// Ends it and its connections, and starts it again.
    pub fn restart(&mut self) {
        for connection in children(self.process.pid()) {
            let _ = Command::new("kill").arg("-KILL").arg(connection.to_string()).status();
        }
        self.process.kill();
        self.process = run_sshd(&self.config, self.port);
    }
}

fn run_sshd(config: &Path, port: u16) -> Process {
    let program = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/opt/homebrew/sbin/sshd"];
    let program = program.into_iter().find(|path| Path::new(path).exists());
    let program = program.expect("no sshd: run scripts/test-tools.sh, as `make test` does");
    if !Path::new("/run/sshd").exists() {
        // Debian's sshd wants it; its service makes it.
        let _ = std::fs::create_dir("/run/sshd");
    }
    let mut command = Command::new(program);
    command.arg("-D").arg("-e").arg("-f").arg(config);
    let process = Process::start(&mut command, &config.with_file_name("log"));
    eventually("sshd listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    process
}

fn children(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |id: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        after_name.split_whitespace().nth(1) == Some(parent.to_string().as_str())
    };
    ids.filter(is_child).collect()
}
