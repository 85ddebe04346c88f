//! Tables in which tools record what they did to one database file: the bookkeeping of migrations.
//!
//! A row there is true for one file only. If it travelled, a node would believe that it had
//! migrated before it did, and would never run the migration. So these tables stay local while
//! schema changes are not replicated.

/// A table that a tool keeps for itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Bookkeeping {
    /// Its name, compared as SQLite compares names.
    pub table: &'static str,
    /// All its columns in any order, where an application may use the name for its own data. Empty
    /// if the name alone is proof.
    columns: &'static [&'static str],
    /// The tool, for people.
    pub tool: &'static str,
    /// What people have to do.
    pub remedy: &'static str,
}

const fn named(table: &'static str, tool: &'static str, remedy: &'static str) -> Bookkeeping {
    Bookkeeping { table, columns: &[], tool, remedy }
}

const fn shaped(
    table: &'static str,
    columns: &'static [&'static str],
    tool: &'static str,
    remedy: &'static str,
) -> Bookkeeping {
    Bookkeeping { table, columns, tool, remedy }
}

const MIGRATE: &str = "run its migrations on every node";
const LOCAL: &str = "each node has its own";

/// All known tables. A table of an application must never match: a name that is not clearly the
/// tool's is listed with its columns.
const KNOWN: &[Bookkeeping] = &[
    // Python
    named("django_migrations", "Django", "run `manage.py migrate` on every node"),
    named("south_migrationhistory", "South (Django)", "run `manage.py migrate` on every node"),
    named("alembic_version", "Alembic", "run `alembic upgrade head` on every node"),
    named("migrate_version", "sqlalchemy-migrate", MIGRATE),
    named("_yoyo_migration", "yoyo", "run `yoyo apply` on every node"),
    named("_yoyo_log", "yoyo", "run `yoyo apply` on every node"),
    named("_yoyo_version", "yoyo", "run `yoyo apply` on every node"),
    named("yoyo_lock", "yoyo", "run `yoyo apply` on every node"),
    shaped("migratehistory", &["id", "name", "migrated_at"], "peewee-migrate", MIGRATE),
    shaped("aerich", &["id", "version", "app", "content"], "Aerich", MIGRATE),
    // Ruby, and those that use the same names
    named(
        "schema_migrations",
        "Rails, Ecto, dbmate or golang-migrate",
        "run the migrations on every node",
    ),
    named("ar_internal_metadata", "Rails", "run `rails db:migrate` on every node"),
    // JavaScript
    named("knex_migrations", "Knex", "run `knex migrate:latest` on every node"),
    named("knex_migrations_lock", "Knex", "run `knex migrate:latest` on every node"),
    named("_prisma_migrations", "Prisma", "run `prisma migrate deploy` on every node"),
    named("__drizzle_migrations", "Drizzle", "run `drizzle-kit migrate` on every node"),
    named("SequelizeMeta", "Sequelize", "run `sequelize db:migrate` on every node"),
    named("SequelizeData", "Sequelize", "run the seeders on one node"),
    named("kysely_migration", "Kysely", MIGRATE),
    named("kysely_migration_lock", "Kysely", MIGRATE),
    named("mikro_orm_migrations", "MikroORM", MIGRATE),
    named(
        "directus_migrations",
        "Directus",
        "run `directus database migrate:latest` on every node",
    ),
    named("strapi_migrations", "Strapi", "start the new version on every node"),
    named("strapi_migrations_internal", "Strapi", "start the new version on every node"),
    named("strapi_database_schema", "Strapi", "start the new version on every node"),
    named("adonis_schema", "AdonisJS", "run `node ace migration:run` on every node"),
    named("adonis_schema_versions", "AdonisJS", "run `node ace migration:run` on every node"),
    named("payload_migrations", "Payload", "run `payload migrate` on every node"),
    named("typeorm_metadata", "TypeORM", MIGRATE),
    shaped("migrations", &["id", "timestamp", "name"], "TypeORM", MIGRATE),
    shaped("migrations", &["id", "name", "run_on"], "db-migrate", MIGRATE),
    // PHP
    shaped(
        "migrations",
        &["id", "migration", "batch"],
        "Laravel",
        "run `artisan migrate` on every node",
    ),
    shaped(
        "migrations",
        &["id", "version", "class", "group", "namespace", "time", "batch"],
        "CodeIgniter",
        MIGRATE,
    ),
    shaped("migration", &["version", "apply_time"], "Yii", "run `yii migrate` on every node"),
    named("doctrine_migration_versions", "Doctrine", MIGRATE),
    named("phinxlog", "Phinx", "run `phinx migrate` on every node"),
    // Go
    named("goose_db_version", "goose", "run `goose up` on every node"),
    named("atlas_schema_revisions", "Atlas", "run `atlas migrate apply` on every node"),
    named("bun_migrations", "Bun", MIGRATE),
    named("bun_migration_locks", "Bun", MIGRATE),
    named("gorp_migrations", "sql-migrate", "run `sql-migrate up` on every node"),
    shaped("migrations", &["id"], "gormigrate", MIGRATE),
    shaped(
        "_migrations",
        &["file", "applied"],
        "PocketBase",
        "start the new version on every node",
    ),
    named("_litestream_seq", "Litestream", LOCAL),
    named("_litestream_lock", "Litestream", LOCAL),
    // Rust
    named("_sqlx_migrations", "SQLx", "run `sqlx migrate run` on every node"),
    named("refinery_schema_history", "Refinery", MIGRATE),
    named("__diesel_schema_migrations", "Diesel", "run `diesel migration run` on every node"),
    named("seaql_migrations", "SeaORM", MIGRATE),
    // .NET
    named("__EFMigrationsHistory", "EF Core", "run `dotnet ef database update` on every node"),
    named("__EFMigrationsLock", "EF Core", "run `dotnet ef database update` on every node"),
    // Java
    named("flyway_schema_history", "Flyway", "run `flyway migrate` on every node"),
    shaped(
        "schema_version",
        &[
            "installed_rank",
            "version",
            "description",
            "type",
            "script",
            "checksum",
            "installed_by",
            "installed_on",
            "execution_time",
            "success",
        ],
        "Flyway",
        "run `flyway migrate` on every node",
    ),
    named("DATABASECHANGELOG", "Liquibase", "run `liquibase update` on every node"),
    named("DATABASECHANGELOGLOCK", "Liquibase", "run `liquibase update` on every node"),
    named("play_evolutions", "Play", "apply the evolutions on every node"),
    named("play_evolutions_lock", "Play", "apply the evolutions on every node"),
    // Swift
    named("_fluent_migrations", "Fluent (Vapor)", MIGRATE),
    named("grdb_migrations", "GRDB", MIGRATE),
];

impl Bookkeeping {
    /// Why the table stays here, for people.
    pub fn reason(&self) -> String {
        format!("bookkeeping of {}: {}", self.tool, self.remedy)
    }

    /// Whether the table is to be replicated where migrations are: what is locked, and what belongs
    /// to one file, stays.
    pub fn travels_with_migrations(&self) -> bool {
        self.remedy != LOCAL && !self.table.to_ascii_lowercase().contains("lock")
    }

    fn has_columns(&self, found: &[String]) -> bool {
        found.len() == self.columns.len()
            && self.columns.iter().all(|c| found.iter().any(|f| f.eq_ignore_ascii_case(c)))
    }
}

/// Returns whether the tool leaves the key of its table NULL, so that only the rowid tells its rows
/// apart. Drizzle declares `id SERIAL PRIMARY KEY`, which fills nothing in SQLite.
pub fn has_null_keys(table: &str) -> bool {
    table.eq_ignore_ascii_case("__drizzle_migrations")
}

/// Returns whose bookkeeping a table is; None if it is the application's own. The columns are read
/// only where the name is not enough.
///
/// # Errors
/// The error of `columns`.
pub fn find<E>(
    table: &str,
    columns: impl FnOnce() -> Result<Vec<String>, E>,
) -> Result<Option<&'static Bookkeeping>, E> {
    let same: Vec<&Bookkeeping> =
        KNOWN.iter().filter(|known| known.table.eq_ignore_ascii_case(table)).collect();
    match same.as_slice() {
        [] => Ok(None),
        [known] if known.columns.is_empty() => Ok(Some(known)),
        candidates => {
            let found = columns()?;
            Ok(candidates.iter().copied().find(|known| known.has_columns(&found)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn tool(table: &str, columns: &str) -> Option<&'static str> {
        let columns =
            || Ok::<_, Infallible>(columns.split_whitespace().map(str::to_owned).collect());
        find(table, columns).unwrap().map(|known| known.tool)
    }

    #[test]
    fn a_table_is_known_by_name_or_by_name_and_columns() {
        for (table, columns, expected) in [
            ("django_migrations", "", Some("Django")),
            ("DJANGO_Migrations", "any thing", Some("Django")),
            ("__efmigrationshistory", "", Some("EF Core")),
            ("databasechangeloglock", "", Some("Liquibase")),
            ("knex_migrations_lock", "", Some("Knex")),
            ("migrations", "id migration batch", Some("Laravel")),
            ("Migrations", "BATCH ID Migration", Some("Laravel")),
            ("migrations", "id timestamp name", Some("TypeORM")),
            ("migrations", "id", Some("gormigrate")),
            ("migrations", "id migration batch who", None),
            ("migrations", "id species from_country", None),
            ("migrations", "", None),
            ("_migrations", "file applied", Some("PocketBase")),
            ("_migrations", "id file applied", None),
            ("schema_version", "version", None),
            ("migratehistory", "id name migrated_at", Some("peewee-migrate")),
            ("migratehistory", "id bird", None),
            ("my_django_migrations", "", None),
            ("django_session", "", None),
            ("migrations_archive", "id migration batch", None),
        ] {
            assert_eq!(tool(table, columns), expected, "{table} ({columns})");
        }
    }

    /// The first entry of a name decides alone if it lists no columns, so it must be the only one.
    #[test]
    fn a_name_is_listed_once_or_always_with_columns() {
        for known in KNOWN.iter().filter(|known| known.columns.is_empty()) {
            let same = KNOWN.iter().filter(|k| k.table.eq_ignore_ascii_case(known.table)).count();
            assert_eq!(same, 1, "{}", known.table);
        }
    }

    #[test]
    fn the_columns_are_read_only_where_they_matter() {
        assert!(find("users", || Err("read")).unwrap().is_none());
        assert!(find("alembic_version", || Err("read")).unwrap().is_some());
        assert_eq!(find("migrations", || Err("read")), Err("read"));
    }
}
