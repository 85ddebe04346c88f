// prisma.js DATABASE VERSION: runs the migrations up to this one, as `prisma migrate deploy` does.
// Prisma 6.19 with its engine in WebAssembly (`engine: "js"`): the usual one is a download. The
// two variables keep it from that; the program that they name is not started.
const fs = require("fs"), os = require("os"), join = require("path").join;
const { spawnSync } = require("child_process");
const [path, upto] = process.argv.slice(2);
const rebuilt = '"id" TEXT NOT NULL PRIMARY KEY, "title" TEXT, "qty" INTEGER NOT NULL DEFAULT 0';
const steps = [
  'CREATE TABLE "item" ("id" TEXT NOT NULL PRIMARY KEY, "name" TEXT);' +
    'CREATE TABLE "tag" ("id" TEXT NOT NULL PRIMARY KEY);',
  'ALTER TABLE "item" ADD COLUMN "qty" INTEGER DEFAULT 0;' +
    'CREATE INDEX "item_name_idx" ON "item"("name");',
  'ALTER TABLE "item" RENAME COLUMN "name" TO "title";',
  // As `migrate dev` writes it.
  "PRAGMA defer_foreign_keys=ON;\nPRAGMA foreign_keys=OFF;\n" +
    `CREATE TABLE "new_item" (${rebuilt});\n` +
    'INSERT INTO "new_item" ("id", "qty", "title") SELECT "id", coalesce("qty", 0) AS "qty", ' +
    '"title" FROM "item";\nDROP TABLE "item";\nALTER TABLE "new_item" RENAME TO "item";\n' +
    'CREATE INDEX "item_name_idx" ON "item"("title");\n' +
    "PRAGMA foreign_keys=ON;\nPRAGMA defer_foreign_keys=OFF;\n",
  'DROP TABLE "tag";',
];
const folder = fs.mkdtempSync(join(os.tmpdir(), "prisma-"));
const modules = process.env.NODE_PATH;
try {
  fs.symlinkSync(modules, join(folder, "node_modules"));
  const schema = `datasource db {\n provider = "sqlite"\n url = "file:${path}"\n}\n`;
  fs.writeFileSync(join(folder, "schema.prisma"), schema);
  fs.writeFileSync(join(folder, "prisma.config.ts"), `
    import { PrismaBetterSQLite3 } from "@prisma/adapter-better-sqlite3";
    export default { schema: "schema.prisma", engine: "js", experimental: { adapter: true },
      migrations: { path: "migrations" },
      adapter: async () => new PrismaBetterSQLite3({ url: "file:${path}" }) };`);
  fs.mkdirSync(join(folder, "migrations"));
  fs.writeFileSync(join(folder, "migrations/migration_lock.toml"), 'provider = "sqlite"\n');
  steps.slice(0, upto).forEach((sql, i) => {
    fs.mkdirSync(join(folder, `migrations/m${i + 1}`));
    fs.writeFileSync(join(folder, `migrations/m${i + 1}/migration.sql`), sql);
  });
  const env = { ...process.env, CHECKPOINT_DISABLE: "1",
    PRISMA_SCHEMA_ENGINE_BINARY: "/bin/true", PRISMA_QUERY_ENGINE_LIBRARY: "/bin/true" };
  const command = [join(modules, "prisma/build/index.js"), "migrate", "deploy"];
  const done = spawnSync(process.execPath, command, { cwd: folder, env, encoding: "utf8" });
  const said = done.stdout + done.stderr;
  const ran = [...said.matchAll(/─ (m\d)\//g)].map((found) => found[1]);
  if (done.status !== 0) { console.error(said); process.exitCode = 1; }
  else console.log(`ran: ${ran}`);
} finally {
  fs.rmSync(folder, { recursive: true });
}
