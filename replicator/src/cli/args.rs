//! The command-line arguments. The flags of HarmonyLite (Go) are valid with one dash or two.

use super::exit::{self, Exit, Failure};
use crate::settings::{ClusterSettings, server_bind};
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// HarmonyLite keeps copies of a SQLite database in sync. Every copy accepts writes.
#[derive(Debug, Parser)]
#[command(name = "harmonylite", after_help = exit::HELP)]
#[command(disable_version_flag = true, args_conflicts_with_subcommands = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// The options of every command.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Global {
    /// Configuration file (TOML); default settings without one
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The database; overrides db_path
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) db: Option<PathBuf>,
    /// This node's id; overrides node_id
    #[arg(long, global = true, value_name = "N")]
    pub(crate) node_id: Option<u64>,
    /// Address on which the embedded server listens for the other servers
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub(crate) cluster_addr: Option<String>,
    /// The other embedded servers, separated by commas
    #[arg(long, global = true, value_name = "URL,URL", value_delimiter = ',')]
    pub(crate) cluster_peers: Vec<String>,
    /// The servers to connect to as a leaf node, separated by commas
    #[arg(long, global = true, value_name = "URL,URL", value_delimiter = ',')]
    pub(crate) leaf_servers: Vec<String>,
    /// Remove our triggers and tables from the database and exit (as `harmonylite cleanup`)
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL")]
    #[arg(default_missing_value = "true", default_value = "false")]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    pub(crate) cleanup: bool,
    /// Save a snapshot and exit (as `harmonylite snapshot save`)
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL")]
    #[arg(default_missing_value = "true", default_value = "false")]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    pub(crate) save_snapshot: bool,
    /// Print the replicated tables with their hashes and exit
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL")]
    #[arg(default_missing_value = "true", default_value = "false")]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    pub(crate) schema_status: bool,
    /// Print the schema hashes of all nodes, read through the running node, and exit
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL")]
    #[arg(default_missing_value = "true", default_value = "false")]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    pub(crate) schema_status_cluster: bool,
    /// Serve profiles (not supported yet)
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) pprof: Option<String>,
    /// Print the version and exit
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL")]
    #[arg(default_missing_value = "true", default_value = "false")]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    pub(crate) version: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Replicate a database until a signal stops it (the default)
    Run,
    /// Run three nodes on this machine: all write, one is cut off, one killed, all end equal
    Demo {
        /// Leave the nodes running at the end, and print commands to try
        #[arg(long)]
        keep: bool,
        /// Approximate duration
        #[arg(long, value_name = "N", default_value_t = 25)]
        #[arg(value_parser = clap::value_parser!(u64).range(8..=3_600))]
        seconds: u64,
    },
    /// Measure throughput, latency and cost on this machine, also with your own tables
    Bench(Box<harmonylite_bench::Options>),
    /// Show the status of this database's node
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Repeat every second
        #[arg(long)]
        watch: bool,
        /// Print only whether the node is healthy, with exit status 0 if it is, 10 if it is
        /// DEGRADED, 1 if no node runs
        #[arg(long, conflicts_with = "watch")]
        check: bool,
    },
    /// List the nodes of the cluster, or forget one that never comes back
    Nodes {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(subcommand)]
        action: Option<NodesAction>,
    },
    /// Check a database and a configuration without changing anything
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Do not connect to the broker
        #[arg(long)]
        offline: bool,
    },
    /// List, restore or clear writes that lost against a concurrent write
    Conflicts {
        #[command(subcommand)]
        action: ConflictsAction,
    },
    /// List, retry or drop batches that could not be decoded or applied
    Quarantine {
        #[command(subcommand)]
        action: QuarantineAction,
    },
    /// Bring back rows whose versions lie in the far future, because a clock was wrong
    ResetVersions,
    /// Show this database's schema, compare it with another node's, or take that over
    Schema {
        /// Show the schema hashes of all nodes instead, read through the running node
        #[arg(long)]
        cluster: bool,
        #[command(subcommand)]
        action: Option<SchemaAction>,
    },
    /// Save, list, verify, restore or remove snapshots of the database
    Snapshot {
        #[command(subcommand)]
        action: SnapshotAction,
    },
    /// Remove our triggers and tables (and those of HarmonyLite (Go)) from the database
    Cleanup {
        /// Also if changes were never published: the other nodes then never get them
        #[arg(long)]
        force: bool,
    },
    /// Print the versions of the program and its parts
    Version {
        /// Print the licences of all parts instead
        #[arg(long)]
        licenses: bool,
    },
    /// Print a completion script
    Completions {
        /// bash, zsh, fish, elvish, powershell
        shell: clap_complete::Shell,
    },
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum ConflictsAction {
    /// List them, newest first
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Show at most N
        #[arg(long, value_name = "N", default_value_t = 100)]
        most: u32,
    },
    /// Show one conflict with its content
    Show {
        /// The conflict's id
        id: i64,
    },
    /// Restore the losing write as a new local write
    Restore {
        /// The conflict's id
        id: i64,
        /// Write it as another row, under a free id (after two inserts under one id)
        #[arg(long)]
        new_id: bool,
    },
    /// Remove all entries
    Clear,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum NodesAction {
    /// Remove a node from the registry, so that no node waits for its answers
    Forget {
        /// The node's id
        node: u64,
    },
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum QuarantineAction {
    /// List them, oldest first
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Make the running node retry a batch
    Retry {
        /// The batch's id in quarantine
        id: i64,
    },
    /// Drop a batch
    Drop {
        /// The batch's id in quarantine
        id: i64,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum SnapshotAction {
    /// Save one in every store, also beside a running node; all but the newest are then removed
    Save {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Send also what the store has: one of its chunks is damaged
        #[arg(long)]
        resend: bool,
    },
    /// List them, newest first
    List {
        /// The store: its name, or its number from 1; the first one without it
        #[arg(long, value_name = "STORE")]
        from: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Restore one into a scratch directory, and check content, integrity and row counts
    Verify {
        /// The snapshot, or the beginning of its name; the newest one without it
        snapshot: Option<String>,
        /// The store: its name, or its number from 1; the first one without it
        #[arg(long, value_name = "STORE")]
        from: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Restore one, or the state of a moment, as a new incarnation of the node that starts on it
    Restore(RestoreOptions),
    /// Read rows of one in its store, without restoring it: only what is read is fetched
    Query(QueryOptions),
    /// Remove old ones, and what only they use
    Prune {
        /// How many stay; snapshot.keep without it
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        keep: Option<u64>,
        /// The store: its name, or its number from 1; the first one without it
        #[arg(long, value_name = "STORE")]
        from: Option<String>,
        /// Only show what would be removed
        #[arg(long)]
        dry_run: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct QueryOptions {
    /// One statement that only reads
    pub(crate) sql: String,
    /// The snapshot, or the beginning of its name; the newest one without it
    #[arg(long, value_name = "ID")]
    pub(crate) snapshot: Option<String>,
    /// The store: its name, or its number from 1; the first one without it
    #[arg(long, value_name = "STORE")]
    pub(crate) from: Option<String>,
    /// Show at most N rows; 0: all
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub(crate) limit: u64,
    /// As JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RestoreOptions {
    /// The file; the configured database without it
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
    /// The snapshot, or the beginning of its name; the newest one without it
    #[arg(long, value_name = "ID")]
    pub(crate) snapshot: Option<String>,
    /// The store: its name, or its number from 1; the first one without it
    #[arg(long, value_name = "STORE")]
    pub(crate) from: Option<String>,
    /// The state of a moment: what the streams hold up to it is applied to the newest snapshot
    /// before it. As 2026-11-29T15:04:05Z; by the clock of the broker
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    /// Go on until Ctrl-C: the file is a copy for reading, which follows the cluster. A copy that
    /// exists is not restored again
    #[arg(long, requires = "to", conflicts_with_all = ["at", "if_db_not_exists", "dry_run"])]
    pub(crate) follow: bool,
    /// Replace a file that exists; it is kept under a dated name
    #[arg(long)]
    pub(crate) force: bool,
    /// Do nothing if the file exists
    #[arg(long)]
    pub(crate) if_db_not_exists: bool,
    /// Only show what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum SchemaAction {
    /// Show what to run here to get the schema of another node, in words and as SQL
    Diff {
        /// The other node's id
        node: u64,
        /// Table OLD is called NEW there; a column as TABLE.OLD=NEW. May be repeated
        #[arg(long, value_name = "OLD=NEW")]
        rename: Vec<String>,
    },
    /// Give this database the schema of another node, in one transaction, while the node runs
    Apply {
        /// The other node's id
        #[arg(long, value_name = "NODE")]
        from: u64,
        /// Table OLD is called NEW there; a column as TABLE.OLD=NEW. May be repeated
        #[arg(long, value_name = "OLD=NEW")]
        rename: Vec<String>,
        /// Also drop the tables and columns that the other node lacks, with their values
        #[arg(long)]
        drop: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

impl Global {
    /// The neighbours of the embedded server.
    pub(crate) fn cluster(&self) -> Result<ClusterSettings, Failure> {
        if let Some(address) = &self.cluster_addr {
            server_bind(address).map_err(|reason| {
                Failure::new(
                    Exit::Usage,
                    format!("-cluster-addr {reason}"),
                    "for example -cluster-addr 127.0.0.1:4221",
                )
            })?;
        }
        let list = |urls: &[String]| {
            urls.iter().map(|u| u.trim().to_owned()).filter(|u| !u.is_empty()).collect()
        };
        let filled = self.cluster_addr.clone().filter(|a| !a.is_empty());
        Ok(ClusterSettings {
            addr: filled,
            peers: list(&self.cluster_peers),
            leaf_servers: list(&self.leaf_servers),
        })
    }
}

const GO_FLAGS: [&str; 13] = [
    "config",
    "node-id",
    "cluster-addr",
    "cluster-peers",
    "leaf-servers",
    "cleanup",
    "save-snapshot",
    "schema-status",
    "schema-status-cluster",
    "pprof",
    "version",
    "help",
    "db",
];

/// Adds the second dash to Go-style flags. Leaves everything else alone.
pub(crate) fn go_style(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut literal = false;
    let rewrite = |argument: OsString| {
        literal |= argument == "--";
        let name = argument
            .to_str()
            .and_then(|text| text.strip_prefix('-'))
            .map(|text| text.split('=').next().unwrap_or(text));
        if literal || !name.is_some_and(|name| GO_FLAGS.contains(&name)) {
            return argument;
        }
        let mut long = OsString::from("-");
        long.push(argument);
        long
    };
    arguments.into_iter().map(rewrite).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Cli {
        let arguments = std::iter::once("harmonylite").chain(line.split_whitespace());
        Cli::try_parse_from(go_style(arguments.map(OsString::from))).unwrap()
    }

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn go_style_flags_work_with_one_dash_and_two() {
        for line in [
            "-config c.toml -node-id 2 -cluster-addr :4221 -cluster-peers nats://a:1,nats://b:2 \
            -leaf-servers x -pprof :1 -cleanup",
            "-config=c.toml -node-id=2 -cluster-addr=:4221 -cluster-peers=nats://a:1,nats://b:2 \
            -leaf-servers=x -pprof=:1 -cleanup=true",
            "--config c.toml --node-id 2 --cluster-addr :4221 --cluster-peers \
            nats://a:1,nats://b:2 --leaf-servers=x --pprof :1 --cleanup",
        ] {
            let Cli { global, command } = parse(line);
            assert!(command.is_none());
            assert_eq!(global.config, Some("c.toml".into()));
            assert_eq!(global.node_id, Some(2));
            let cluster = global.cluster().unwrap();
            assert_eq!(cluster.addr.as_deref(), Some(":4221"));
            assert_eq!(cluster.peers, ["nats://a:1", "nats://b:2"]);
            assert_eq!(cluster.leaf_servers, ["x"]);
            assert!(global.cleanup && !global.save_snapshot);
        }
        assert!(parse("-save-snapshot").global.save_snapshot);
        assert!(!parse("-save-snapshot=false").global.save_snapshot);
        assert!(
            parse("-schema-status").global.schema_status
                && parse("-schema-status-cluster").global.schema_status_cluster
        );
        assert!(parse("-version").global.version);
    }

    #[test]
    fn flags_stand_before_or_after_the_subcommand() {
        for line in ["run --db a.db -node-id 1", "--db a.db -node-id 1 run", "-db a.db -node-id=1"]
        {
            let global = parse(line).global;
            assert_eq!((global.db, global.node_id), (Some("a.db".into()), Some(1)), "{line}");
        }
        assert!(matches!(
            parse("conflicts restore 3").command,
            Some(Command::Conflicts { action: ConflictsAction::Restore { id: 3, new_id: false } })
        ));
        assert!(matches!(
            parse("status --json --watch").command,
            Some(Command::Status { json: true, watch: true, check: false })
        ));
        assert!(matches!(
            parse("nodes forget 3").command,
            Some(Command::Nodes { action: Some(NodesAction::Forget { node: 3 }), .. })
        ));
        let Some(Command::Snapshot { action: SnapshotAction::Restore(options) }) =
            parse("snapshot restore --to x.db --force -config c.toml").command
        else {
            panic!("no snapshot restore");
        };
        assert!(options.to == Some("x.db".into()) && options.force && !options.dry_run);
        assert!(matches!(parse("completions bash").command, Some(Command::Completions { .. })));
    }

    #[test]
    fn other_single_dashes_are_left_alone() {
        let same = |text: &str| go_style([OsString::from(text)]) == [OsString::from(text)];
        assert!(same("-h") && same("-confi") && same("--config") && same("-") && same("-json"));
        assert_eq!(go_style(["--", "-config"].map(OsString::from))[1], "-config");
        assert!(Cli::try_parse_from(["harmonylite", "--nonsense"]).is_err());
    }

    #[test]
    fn a_wrong_cluster_address_is_a_usage_error() {
        let failure = parse("-cluster-addr nowhere").global.cluster().unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
    }
}
