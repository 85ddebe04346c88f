//! The arguments. The flags of HarmonyLite (Go) are valid with one dash or two.

use super::exit::{self, Exit, Failure};
use crate::settings::{ClusterSettings, server_bind};
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// Leaderless multi-writer replication for SQLite over NATS JetStream.
#[derive(Debug, Parser)]
#[command(name = "harmonylite", after_help = exit::HELP, disable_version_flag = true, args_conflicts_with_subcommands = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What every command understands.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Global {
    /// Configuration file (TOML); without one, the defaults
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The database; overrides db_path of the file
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) db: Option<PathBuf>,
    /// This node's number; overrides node_id of the file
    #[arg(long, global = true, value_name = "N")]
    pub(crate) node_id: Option<u64>,
    /// Where the embedded server listens for the other servers
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub(crate) cluster_addr: Option<String>,
    /// The other embedded servers, separated by commas
    #[arg(long, global = true, value_name = "URL,URL", value_delimiter = ',')]
    pub(crate) cluster_peers: Vec<String>,
    /// The servers to be a leaf of, separated by commas
    #[arg(long, global = true, value_name = "URL,URL", value_delimiter = ',')]
    pub(crate) leaf_servers: Vec<String>,
    /// Remove our triggers and tables from the database, and end (as `harmonylite cleanup`)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub(crate) cleanup: bool,
    /// Take a snapshot and end (not in this version yet)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub(crate) save_snapshot: bool,
    /// Print the replicated tables with their hashes, and end
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub(crate) schema_status: bool,
    /// Print the schema hashes of all nodes, as the running node of this database knows them, and
    /// end
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub(crate) schema_status_cluster: bool,
    /// Serve profiles (not in this version yet)
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) pprof: Option<String>,
    /// Print the version, and end
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub(crate) version: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Replicate a database until told to stop (the default)
    Run,
    /// Watch three nodes on this machine write at once, be cut off and killed, and end up equal
    Demo {
        /// Leave the nodes running at the end, and say what to try with them
        #[arg(long)]
        keep: bool,
        /// How long it takes, about
        #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u64).range(8..=3_600))]
        seconds: u64,
    },
    /// Show what the node of this database is doing
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Again every second
        #[arg(long)]
        watch: bool,
    },
    /// Check a database and a configuration, changing nothing
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// What lost against a concurrent write
    Conflicts {
        #[command(subcommand)]
        action: ConflictsAction,
    },
    /// Batches that could not be decoded or applied
    Quarantine {
        #[command(subcommand)]
        action: QuarantineAction,
    },
    /// Remove our triggers and tables (and those of HarmonyLite (Go)) from the database
    Cleanup,
    /// Print the version and what is inside
    Version {
        /// Print the licences of everything inside instead
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
        /// At most so many
        #[arg(long, default_value_t = 100)]
        most: u32,
    },
    /// Show one with its content
    Show {
        /// Its number
        id: i64,
    },
    /// Write the content that lost again, as a new local write
    Restore {
        /// Its number
        id: i64,
    },
    /// Forget all
    Clear,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum QuarantineAction {
    /// List them, oldest first
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Let the running node try one again
    Retry {
        /// Its number
        id: i64,
    },
    /// Throw one away
    Drop {
        /// Its number
        id: i64,
    },
}

impl Global {
    /// The embedded server's neighbours.
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

/// Gives Go-style flags their second dash. Nothing else is touched.
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
            Some(Command::Conflicts { action: ConflictsAction::Restore { id: 3 } })
        ));
        assert!(matches!(
            parse("status --json --watch").command,
            Some(Command::Status { json: true, watch: true })
        ));
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
