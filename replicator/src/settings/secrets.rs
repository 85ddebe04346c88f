//! Secrets that stand elsewhere: in the environment, or in files of their own.
//!
//! Arrives: settings as written. Leaves: settings with their secrets, or an error that names the
//! key and the variable or file, never a value. Owns: `${NAME}` is replaced only in keys whose
//! values are secret; `$${` stands for `${`.

use super::check::Wrong;
use super::{NatsSettings, Secret, Settings};
use percent_encoding::percent_decode_str;
use std::path::Path;

/// The variable that overrides `nats.user_password`.
pub const PASSWORD_VARIABLE: &str = "HARMONYLITE_NATS_PASSWORD";

/// A file with a secret is no longer.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// How a node logs in at a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// With a name and a password.
    User(String, Secret),
    /// With a token.
    Token(Secret),
}

/// Reads variables of the environment.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Returns the keys that hold a secret themselves, as written.
pub(super) fn written(settings: &Settings) -> Vec<&'static str> {
    let (nats, snapshot) = (&settings.nats, &settings.snapshot);
    let urls = nats.urls.iter().any(|url| url.contains('@') && !url.contains("${"));
    let mut keys = if urls { vec!["nats.urls"] } else { Vec::new() };
    for (key, secret) in [
        ("nats.user_password", &nats.user_password),
        ("snapshot.s3.secret", &snapshot.s3.secret),
        ("snapshot.s3.session_token", &snapshot.s3.session_token),
        ("snapshot.webdav.url", &snapshot.webdav.url),
        ("snapshot.sftp.url", &snapshot.sftp.url),
    ]
    .into_iter()
    .chain(snapshot.also.iter().flat_map(|store| {
        [&store.s3.secret, &store.s3.session_token, &store.webdav.url, &store.sftp.url]
            .map(|secret| ("snapshot.also", secret))
    })) {
        if !secret.is_empty() && !secret.reveal().contains("${") {
            keys.push(key);
        }
    }
    keys
}

/// Puts the secrets of the environment and of files in their places.
pub(super) fn resolve(settings: &mut Settings, environment: Environment<'_>) -> Result<(), Wrong> {
    let (nats, snapshot) = (&mut settings.nats, &mut settings.snapshot);
    for url in &mut nats.urls {
        *url = expand("nats.urls", url, environment)?;
    }
    for (key, secret) in [
        ("nats.user_password", &mut nats.user_password),
        ("snapshot.s3.secret", &mut snapshot.s3.secret),
        ("snapshot.s3.session_token", &mut snapshot.s3.session_token),
        ("snapshot.webdav.url", &mut snapshot.webdav.url),
        ("snapshot.sftp.url", &mut snapshot.sftp.url),
    ]
    .into_iter()
    .chain(snapshot.also.iter_mut().flat_map(|store| {
        let (s3, webdav, sftp) = (&mut store.s3, &mut store.webdav, &mut store.sftp);
        [&mut s3.secret, &mut s3.session_token, &mut webdav.url, &mut sftp.url]
            .map(|secret| ("snapshot.also", secret))
    })) {
        *secret = Secret::new(expand(key, secret.reveal(), environment)?);
    }
    if !nats.user_password.is_empty() && !nats.user_password_file.is_empty() {
        let reason = "and nats.user_password exclude each other: set one";
        return Err(("nats.user_password_file", reason.to_owned()));
    }
    if let Some(password) = environment(PASSWORD_VARIABLE).filter(|p| !p.is_empty()) {
        nats.user_password = Secret::new(password);
        nats.user_password_file.clear();
    }
    read_password(nats)
}

/// Reads the password's file, if one is named.
pub(super) fn read_password(nats: &mut NatsSettings) -> Result<(), Wrong> {
    if nats.user_password_file.is_empty() {
        return Ok(());
    }
    let password = of_file(Path::new(&nats.user_password_file)).map_err(|error| {
        let file = &nats.user_password_file;
        ("nats.user_password_file", format!("names {file:?}, which cannot be used: {error}"))
    })?;
    nats.user_password = password;
    Ok(())
}

/// Reads a secret from a file, without the line's end.
fn of_file(path: &Path) -> std::io::Result<Secret> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(SECRET_BYTES_MAX).read_to_string(&mut text)?;
    let secret = text.trim_end_matches(['\n', '\r']);
    match secret.is_empty() {
        true => Err(std::io::Error::other("it is empty")),
        false => Ok(Secret::new(secret)),
    }
}

/// Replaces `${NAME}` by the variable NAME.
fn expand(key: &'static str, text: &str, environment: Environment) -> Result<String, Wrong> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at]);
            out.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let Some((name, after)) = rest[at + 2..].split_once('}') else {
            let reason = "has a ${ without }: write ${NAME}, or $${ for the two characters";
            return Err((key, reason.to_owned()));
        };
        let Some(value) = environment(name) else {
            let reason = format!(
                "names the variable {name:?} of the environment, which is not set (write $${{ for \
                the two characters)"
            );
            return Err((key, reason));
        };
        out.push_str(&value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

impl NatsSettings {
    /// Returns how a node logs in at the servers of `urls`: with the login in the URLs, else with
    /// that of the settings. The password's file is read again, since the password may have
    /// changed. None: without a login, or with a key.
    ///
    /// # Errors
    /// The file cannot be read, for people.
    pub fn login(&self) -> Result<Option<Login>, String> {
        if let Some(login) = self.urls.iter().find_map(|url| login_in(url)) {
            return Ok(Some(login));
        }
        if self.user_name.is_empty() {
            return Ok(None);
        }
        let mut read = self.clone();
        read_password(&mut read).map_err(|(key, reason)| format!("{key} {reason}"))?;
        Ok(Some(Login::User(read.user_name, read.user_password)))
    }
}

/// Returns the login in a URL, percent-decoded: a user and a password, or a token.
pub(super) fn login_in(url: &str) -> Option<Login> {
    let (login, _) = url.split_once("://").map_or(url, |(_, rest)| rest).rsplit_once('@')?;
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    Some(match login.split_once(':') {
        Some((name, password)) => Login::User(decoded(name), Secret::new(decoded(password))),
        None => Login::Token(Secret::new(decoded(login))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        matches!(name, "PW" | "TWO").then(|| format!("hunter-{name}"))
    }

    fn expanded(text: &str) -> Result<String, Wrong> {
        expand("nats.user_password", text, &environment)
    }

    #[test]
    fn variables_are_replaced_and_a_missing_one_is_named() {
        for (text, value) in [
            ("plain$1", "plain$1"),
            ("${PW}", "hunter-PW"),
            ("a${PW}b${TWO}", "ahunter-PWbhunter-TWO"),
            ("$${PW}", "${PW}"),
            ("é$", "é$"),
        ] {
            assert_eq!(expanded(text).unwrap(), value);
        }
        assert!(expanded("x${NONE}").unwrap_err().1.contains("\"NONE\""));
        assert!(expanded("x${PW").unwrap_err().1.contains("without }"));
    }

    #[test]
    fn the_password_is_that_of_the_variable_the_text_or_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "of the file\n").unwrap();
        let made = |text: &str, file: &str, variable: &'static str| {
            let mut settings = Settings::default();
            settings.nats.user_password = Secret::new(text);
            settings.nats.user_password_file = file.to_owned();
            let variable = |name: &str| {
                (name == PASSWORD_VARIABLE && !variable.is_empty()).then(|| variable.to_owned())
            };
            resolve(&mut settings, &variable).map(|()| settings.nats.user_password)
        };
        let file = file.path().to_str().unwrap();
        assert_eq!(made("", file, "").unwrap().reveal(), "of the file");
        assert_eq!(made("text", "", "").unwrap().reveal(), "text");
        assert_eq!(made("text", "", "variable").unwrap().reveal(), "variable");
        assert_eq!(made("", file, "variable").unwrap().reveal(), "variable");
        assert_eq!(made("text", file, "").unwrap_err().0, "nats.user_password_file");
        assert_eq!(made("", "/no/such/file", "").unwrap_err().0, "nats.user_password_file");
        std::fs::write(file, "\n").unwrap();
        assert!(made("", file, "").unwrap_err().1.contains("empty"));
    }

    #[test]
    fn logins_in_urls_are_decoded() {
        let user =
            |name: &str, password: &str| Some(Login::User(name.to_owned(), Secret::new(password)));
        assert_eq!(login_in("nats://shop:p%40ss%2F%24@host:4222"), user("shop", "p@ss/$"));
        assert_eq!(login_in("nats://shop:p@ss@host:4222"), user("shop", "p@ss"));
        assert_eq!(login_in("tls://to%3Aken@host"), Some(Login::Token(Secret::new("to:ken"))));
        assert_eq!(login_in("host:4222"), None);
    }

    #[test]
    fn a_changed_password_file_is_read_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut settings = Settings::default();
        settings.nats.user_name = "shop".to_owned();
        settings.nats.user_password_file = file.path().to_str().unwrap().to_owned();
        for password in ["one", "two"] {
            std::fs::write(file.path(), password).unwrap();
            let login = Login::User("shop".to_owned(), Secret::new(password));
            assert_eq!(settings.nats.login(), Ok(Some(login)));
        }
        settings.nats.urls = vec!["nats://a:b@host".to_owned()];
        assert!(matches!(settings.nats.login(), Ok(Some(Login::User(name, _))) if name == "a"));
    }

    #[test]
    fn secrets_in_the_file_itself_are_found() {
        let mut settings = Settings::default();
        assert!(written(&settings).is_empty());
        settings.nats.user_password = Secret::new("${PW}");
        settings.nats.urls = vec!["nats://host".into(), "nats://u:${PW}@host".into()];
        assert!(written(&settings).is_empty());
        settings.snapshot.s3.secret = Secret::new("x");
        settings.nats.urls.push("nats://u:p@host".into());
        assert_eq!(written(&settings), ["nats.urls", "snapshot.s3.secret"]);
    }
}
