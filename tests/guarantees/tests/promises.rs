//! All promises in one executable: else each would be linked by itself, and would not run beside
//! others. One file a promise; `cargo test -p harmonylite-guarantees --test promises holes::` runs
//! one.

mod any_client;
mod atomicity;
mod bad_disk;
mod bench;
mod broker_access;
mod broker_restart;
mod busy_application;
mod carried_schema;
mod changed_key;
mod cluster_access;
mod convergence;
mod database_replaced;
mod ddl;
mod deferred;
mod demo;
mod django;
mod doctor;
mod embedded_alone;
mod embedded_cluster;
mod exact_values;
mod expiry;
mod holes;
mod hostile_messages;
mod hostile_neighbours;
mod ids;
mod joining;
mod kill_node;
mod large_values;
mod leaf;
mod many_tables;
mod migration_bookkeeping;
mod migrations;
mod no_primary_key;
mod offline_edits;
mod one_way;
mod operating;
mod peers;
mod quarantine_retry;
mod rebuild_in_steps;
mod refusals;
mod renamed_by_rebuild;
mod schema_take_over;
mod second_version;
mod secrets;
mod slow_stop;
mod snapshot_follow;
mod snapshot_heals;
mod snapshot_leader;
mod snapshot_moments;
mod snapshot_query;
mod snapshots;
mod stores;
mod unique_clashes;
mod versions;

#[test]
fn no_file_is_left_out() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let named = include_str!("promises.rs");
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(".rs").filter(|name| *name != "promises") else {
            continue;
        };
        assert!(named.contains(&format!("mod {name};\n")), "{name}.rs is not run by promises.rs");
    }
}
