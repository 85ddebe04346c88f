CREATE TABLE IF NOT EXISTS main.__harmonylite__meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS main.__harmonylite__table (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE COLLATE NOCASE,
  hash BLOB
);
CREATE TABLE IF NOT EXISTS main.__harmonylite__schema_history (
  table_id INTEGER NOT NULL,
  hash BLOB NOT NULL,
  time INTEGER NOT NULL,
  logged_upto INTEGER NOT NULL,
  shape TEXT NOT NULL,
  PRIMARY KEY (table_id, hash)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS main.__harmonylite__comparison (
  table_id INTEGER PRIMARY KEY,
  time INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  new_from INTEGER NOT NULL,
  logged_upto INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS main.__harmonylite__schema_change (
  id INTEGER PRIMARY KEY,
  log_id INTEGER NOT NULL,
  time INTEGER NOT NULL,
  changes BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS main.__harmonylite__unmade (
  id INTEGER PRIMARY KEY,
  kind TEXT NOT NULL,
  name TEXT NOT NULL COLLATE NOCASE,
  table_name TEXT NOT NULL COLLATE NOCASE,
  node INTEGER NOT NULL,
  since INTEGER NOT NULL,
  change BLOB NOT NULL,
  error TEXT NOT NULL,
  UNIQUE (kind, name)
);
CREATE TABLE IF NOT EXISTS main.__harmonylite__change_log (
  id INTEGER PRIMARY KEY,
  -- A Julian day (REAL) if a trigger wrote it, in SQL that SQLite 3.24 supports and that works with
  -- trusted_schema off; unix milliseconds (INTEGER) otherwise. The application pays for each step
  -- of its triggers: so no conversion here, no types, and no NOT NULL.
  time DEFAULT (julianday()),
  -- The table's number, if a trigger saw a change of its row; see entry_code.rs.
  table_id,
  key0
);
CREATE TABLE IF NOT EXISTS main.__harmonylite__id_range (
  table_id INTEGER PRIMARY KEY,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS main.__harmonylite__site (
  site INTEGER PRIMARY KEY,
  since INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS main.__harmonylite__site_number (
  number INTEGER PRIMARY KEY,
  site INTEGER NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS main.__harmonylite__origin (
  site INTEGER PRIMARY KEY,
  node INTEGER NOT NULL,
  batch INTEGER NOT NULL,
  created INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS main.__harmonylite__held (
  node INTEGER NOT NULL,
  shard INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  since INTEGER NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (node, shard)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS main.__harmonylite__cursor (
  shard INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  created INTEGER NOT NULL,
  time INTEGER NOT NULL,
  node INTEGER NOT NULL,
  site INTEGER NOT NULL,
  batch INTEGER NOT NULL,
  lowest INTEGER NOT NULL,
  PRIMARY KEY (shard, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS main.__harmonylite__gap (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  shard INTEGER NOT NULL,
  node INTEGER NOT NULL,
  since INTEGER NOT NULL,
  noticed INTEGER NOT NULL,
  reason TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS main.__harmonylite__conflict (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  time INTEGER NOT NULL,
  table_name TEXT NOT NULL,
  key TEXT NOT NULL,
  reason TEXT NOT NULL,
  winner_hlc INTEGER NOT NULL,
  winner_site INTEGER NOT NULL,
  loser_hlc INTEGER NOT NULL,
  loser_site INTEGER NOT NULL,
  loser TEXT
);
CREATE TABLE IF NOT EXISTS main.__harmonylite__quarantine (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  time INTEGER NOT NULL,
  shard INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  node INTEGER NOT NULL,
  site INTEGER NOT NULL,
  batch INTEGER NOT NULL,
  reason TEXT NOT NULL,
  body BLOB NOT NULL,
  digest BLOB
);
CREATE UNIQUE INDEX IF NOT EXISTS main.__harmonylite__conflict_once
  ON __harmonylite__conflict (table_name, key, loser_hlc, loser_site);
CREATE VIEW IF NOT EXISTS main.__harmonylite__pending AS
  SELECT t.name AS table_name, CASE typeof(l.time) WHEN 'real' THEN datetime(l.time)
    ELSE datetime(l.time / 1000.0, 'unixepoch') END AS changed_at, l.*
  FROM __harmonylite__change_log AS l LEFT JOIN __harmonylite__table AS t ON t.id = max(
    CAST(l.table_id AS INTEGER), -CAST(l.table_id AS INTEGER) >> 3)
  WHERE l.id > coalesce((SELECT value FROM __harmonylite__meta WHERE key = 'published'), 0);
