// drizzle.js DATABASE VERSION: runs the migrations up to this one with Drizzle's migrator, which
// reads them from a folder, as drizzle-kit writes it.
const fs = require("fs"), os = require("os"), join = require("path").join;
const { drizzle } = require("drizzle-orm/better-sqlite3");
const { migrate } = require("drizzle-orm/better-sqlite3/migrator");
const [path, upto] = process.argv.slice(2);
const next = "\n--> statement-breakpoint\n";
const steps = [
  ["CREATE TABLE `item` (`id` text PRIMARY KEY NOT NULL, `name` text);",
    "CREATE TABLE `tag` (`id` text PRIMARY KEY NOT NULL);"],
  ["ALTER TABLE `item` ADD `qty` integer DEFAULT 0;", "ALTER TABLE `item` ADD `note` text;",
    "CREATE INDEX `item_name` ON `item` (`name`);"],
  ["ALTER TABLE `item` RENAME COLUMN \"name\" TO \"title\";"],
  ["PRAGMA foreign_keys=OFF;",
    "CREATE TABLE `__new_item` (`id` text PRIMARY KEY NOT NULL, `title` text, " +
    "`qty` bigint DEFAULT 0 NOT NULL, `note` text);",
    'INSERT INTO `__new_item`("id", "title", "qty", "note") ' +
    'SELECT "id", "title", "qty", "note" FROM `item`;',
    "DROP TABLE `item`;", "ALTER TABLE `__new_item` RENAME TO `item`;", "PRAGMA foreign_keys=ON;",
    "CREATE INDEX `item_name` ON `item` (`title`);"],
  ["DROP TABLE `tag`;"],
  ["ALTER TABLE `item` DROP COLUMN `note`;"],
  ["ALTER TABLE `item` RENAME TO `article`;"],
];
const folder = fs.mkdtempSync(join(os.tmpdir(), "drizzle-"));
fs.mkdirSync(join(folder, "meta"));
const entries = steps.slice(0, upto).map((step, i) => {
  fs.writeFileSync(join(folder, `m${i + 1}.sql`), step.join(next));
  return { idx: i, version: "6", when: 1700000000000 + i, tag: `m${i + 1}`, breakpoints: true };
});
const journal = { version: "7", dialect: "sqlite", entries };
fs.writeFileSync(join(folder, "meta/_journal.json"), JSON.stringify(journal));
const db = drizzle(path);
const count = "SELECT count(*) AS n FROM sqlite_schema WHERE name = '__drizzle_migrations'";
const ran = () => db.$client.prepare(count).get().n &&
  db.$client.prepare("SELECT count(*) AS n FROM __drizzle_migrations").get().n;
try {
  const before = ran();
  migrate(db, { migrationsFolder: folder });
  console.log(`ran: ${ran() - before || ""}`);
} finally {
  fs.rmSync(folder, { recursive: true });
}
