//! Checks that no other user of the machine can read the secrets of a node.

use super::report::{Level, Report};
use crate::settings::Loaded;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The permission bits of group and others to read.
const OTHERS_READ: u32 = 0o044;

/// Adds the findings.
pub(super) fn check(config: Option<&Path>, loaded: &Loaded, report: &mut Report) {
    if let Some(config) = config.filter(|_| !loaded.secrets.is_empty()) {
        let held = format!("the configuration, which holds {}", loaded.secrets.join(", "));
        look(config, &held, report);
    }
    let nats = &loaded.settings.nats;
    for (key, file) in [
        ("nats.user_password_file", &nats.user_password_file),
        ("nats.seed_file", &nats.seed_file),
        ("nats.creds_file", &nats.creds_file),
        ("nats.key_file", &nats.key_file),
    ] {
        if !file.is_empty() {
            look(Path::new(file), key, report);
        }
    }
}

fn look(file: &Path, what: &str, report: &mut Report) {
    // A file that cannot be read is a finding of its own.
    let Ok(found) = std::fs::metadata(file) else { return };
    let mode = found.permissions().mode() & 0o777;
    if mode & OTHERS_READ == 0 {
        return;
    }
    let name = file.display();
    let text = format!("{name} ({what}) can be read by other users: its mode is {mode:o}");
    let hint = format!(
        "chmod 600 '{name}'; a password may also stand in nats.user_password_file or in the \
        environment (docs/security.md)"
    );
    report.add(Level::Warning, "secrets", text, hint);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    #[test]
    fn files_with_secrets_that_others_can_read_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let (config, key) = (dir.path().join("c.toml"), dir.path().join("seed"));
        std::fs::write(&key, "SU..").unwrap();
        let findings = |text: &str, mode: u32| {
            std::fs::write(&config, text).unwrap();
            for file in [&config, &key] {
                std::fs::set_permissions(file, PermissionsExt::from_mode(mode)).unwrap();
            }
            let loaded = Settings::load(&config).unwrap();
            let mut report = Report::default();
            check(Some(&config), &loaded, &mut report);
            report.text()
        };
        let secret = "[nats]\nuser_password = 'hunter2'";
        let text = findings(secret, 0o644);
        assert!(text.contains("nats.user_password") && text.contains("644"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        assert!(!findings(secret, 0o600).contains("WARNING"));
        assert!(!findings("node_id = 1", 0o644).contains("WARNING"));
        let seed = findings(&format!("[nats]\nseed_file = {key:?}"), 0o640);
        assert!(seed.contains("nats.seed_file") && !seed.contains("the configuration"), "{seed}");
    }
}
