// typeorm.js DATABASE VERSION [check]: runs the migrations up to this one, as `migration:run`
// does. With `check` it prints instead the SQL with which it would synchronise the schema.
require("reflect-metadata");
const { DataSource, EntitySchema, Table, TableColumn, TableIndex } = require("typeorm");
const [path, upto, check] = process.argv.slice(2);
const text = { type: "varchar", isNullable: true };
const steps = [
  async (q) => {
    const id = { name: "id", type: "varchar", isPrimary: true };
    await q.createTable(new Table({ name: "item", columns: [id, { name: "name", ...text }] }));
    await q.createTable(new Table({ name: "tag", columns: [id] }));
  },
  async (q) => {
    const qty = { name: "qty", type: "integer", isNullable: true, default: 0 };
    await q.addColumn("item", new TableColumn(qty));
    await q.addColumn("item", new TableColumn({ name: "note", ...text }));
    await q.createIndex("item", new TableIndex({ name: "item_name", columnNames: ["name"] }));
  },
  (q) => q.query('ALTER TABLE "item" RENAME COLUMN "name" TO "title"'),
  (q) => q.changeColumn("item", "qty", new TableColumn({ name: "qty", type: "bigint", default: 0 })),
  (q) => q.dropTable("tag"),
  (q) => q.dropColumn("item", "note"),
  (q) => q.renameTable("item", "article"),
];
const migrations = steps.slice(0, upto).map((up, i) => ({
  [`M${1700000000000 + i}`]: class {
    constructor() { this.name = `M${1700000000000 + i}`; }
    up(q) { return up(q); }
    async down() {}
  },
})).map((o) => Object.values(o)[0]);
const Item = new EntitySchema({ name: "article", columns: {
  id: { type: "varchar", primary: true }, title: { type: "varchar", nullable: true },
  qty: { type: "bigint", default: 0 },
} });
const entities = check ? [Item] : [];
const source = new DataSource({ type: "better-sqlite3", database: path, migrations, entities });
source.initialize().then(async () => {
  if (check) {
    const log = await source.driver.createSchemaBuilder().log();
    console.log(log.upQueries.map((q) => q.query).join("\n"));
  } else {
    const ran = await source.runMigrations({ transaction: "each" });
    console.log(`ran: ${ran.map((m) => m.name)}`);
  }
}).catch((error) => { console.error(error); process.exitCode = 1; })
  .finally(() => source.isInitialized && source.destroy());
