// sequelize.js DATABASE VERSION: runs the migrations up to this one with Umzug, as
// `sequelize-cli db:migrate` does.
const { Sequelize, DataTypes } = require("sequelize");
const { Umzug, SequelizeStorage } = require("umzug");
const [storage, upto] = process.argv.slice(2);
const logging = process.env.TRACE ? console.log : false;
const sequelize = new Sequelize({ dialect: "sqlite", storage, logging });
const id = { type: DataTypes.STRING, primaryKey: true };
const qty = { type: DataTypes.BIGINT, defaultValue: 0, allowNull: false };
// A rebuild is eight statements. Only a transaction keeps others from what is between them.
const whole = (change) => (q) => sequelize.transaction((transaction) => change(q, { transaction }));
const steps = [
  async (q) => {
    await q.createTable("item", { id, name: DataTypes.STRING });
    await q.createTable("tag", { id });
  },
  async (q) => {
    await q.addColumn("item", "qty", { type: DataTypes.INTEGER, defaultValue: 0 });
    await q.addColumn("item", "note", DataTypes.TEXT);
    await q.addIndex("item", ["name"]);
  },
  whole((q, options) => q.renameColumn("item", "name", "title", options)),
  whole((q, options) => q.changeColumn("item", "qty", qty, options)),
  (q) => q.dropTable("tag"),
  whole((q, options) => q.removeColumn("item", "note", options)),
  (q) => q.renameTable("item", "article"),
];
const umzug = new Umzug({
  migrations: steps.slice(0, upto).map((up, i) => ({ name: `m${i + 1}`, up: () => up(q) })),
  storage: new SequelizeStorage({ sequelize }), logger: undefined,
});
const q = sequelize.getQueryInterface();
sequelize.query("PRAGMA busy_timeout = 20000").then(() => umzug.up())
  .then((ran) => console.log(`ran: ${ran.map((m) => m.name)}`))
  .catch((error) => { console.error(error); process.exitCode = 1; })
  .finally(() => sequelize.close());
