CREATE TABLE reading (
    sensor INTEGER NOT NULL,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    value REAL NOT NULL,
    raw BLOB,
    PRIMARY KEY (sensor, at, kind)
) WITHOUT ROWID;
