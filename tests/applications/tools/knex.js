// knex.js DATABASE VERSION: runs the migrations up to this one, as `knex migrate:up` does.
const [path, upto] = process.argv.slice(2);
const knex = require("knex")({
  client: "better-sqlite3", connection: { filename: path }, useNullAsDefault: true,
});
const steps = [
  async (k) => {
    await k.schema.createTable("item", (t) => { t.string("id").primary(); t.string("name"); });
    await k.schema.createTable("tag", (t) => { t.string("id").primary(); });
  },
  (k) => k.schema.alterTable("item", (t) => {
    t.integer("qty").defaultTo(0);
    t.text("note");
    t.index("name");
  }),
  (k) => k.schema.alterTable("item", (t) => { t.renameColumn("name", "title"); }),
  (k) => k.schema.alterTable("item", (t) => { t.bigInteger("qty").notNullable().defaultTo(0).alter(); }),
  (k) => k.schema.dropTable("tag"),
  (k) => k.schema.alterTable("item", (t) => { t.dropColumn("note"); }),
  (k) => k.schema.renameTable("item", "article"),
];
const all = steps.map((up, i) => ({ name: `m${i + 1}`, up, down: async () => {} }));
const migrationSource = {
  getMigrations: async () => all.slice(0, upto),
  getMigrationName: (m) => m.name,
  getMigration: async (m) => m,
};
knex.migrate.latest({ migrationSource }).then(([, names]) => console.log(`ran: ${names}`))
  .catch((error) => { console.error(error); process.exitCode = 1; })
  .finally(() => knex.destroy());
