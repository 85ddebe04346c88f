//! Notes on keys that have no effect here, or another one than in HarmonyLite (Go).

use super::Settings;
use super::keys::Found;

/// Below this a stream may lose messages within hours of ordinary work.
const FEW_ENTRIES: i64 = 100_000;

/// Returns one note for each such key that the file sets.
pub(super) fn notes(settings: &Settings, found: &Found) -> Vec<String> {
    let mut notes = Vec::new();
    let unused = [
        ("seq_map_path", "the database stores the position in the stream"),
        ("scan_max_changes", "batches grow with the load automatically"),
        ("cleanup_interval", "published changes are removed after the broker acknowledges them"),
    ];
    for (key, why) in unused {
        if found.has(key) {
            notes.push(format!("{key} has no effect here: {why}"));
        }
    }
    if !settings.replication_log.compress {
        notes.push(
            "replication_log.compress = false has no effect here: batches are always compressed"
                .to_owned(),
        );
    }
    let entries = settings.replication_log.max_entries;
    if found.has("replication_log.max_entries") && (0..FEW_ENTRIES).contains(&entries) {
        notes.push(format!(
            "replication_log.max_entries = {entries} counts messages here, each a batch or a part \
            of one: a node that misses more than these must be repaired by its peers. Remove the \
            key for the default of 1000000"
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use crate::settings::Settings;
    use std::path::Path;

    fn notes(text: &str) -> Vec<String> {
        Settings::from_toml(text, Path::new("x")).unwrap().notes
    }

    #[test]
    fn a_note_only_for_what_the_file_sets() {
        assert!(notes("publish = false").is_empty());
        assert_eq!(notes("cleanup_interval = 5000").len(), 1);
        assert_eq!(notes("[replication_log]\ncompress = true").len(), 0);
        assert_eq!(notes("[replication_log]\ncompress = false\nmax_entries = 1024").len(), 2);
        assert_eq!(notes("[replication_log]\nmax_entries = -1").len(), 0);
    }
}
