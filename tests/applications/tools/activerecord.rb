# activerecord.rb DATABASE VERSION [dump]: runs the migrations up to this one, as `db:migrate` does.
# With `dump` it prints schema.rb instead.
require "active_record"
path, upto, dump = ARGV
ActiveRecord::Base.establish_connection(adapter: "sqlite3", database: path, timeout: 20_000)
ActiveRecord::Migration.verbose = false
Step = ActiveRecord::Migration[6.1]
STEPS = [
  Class.new(Step) { def up
    create_table(:item, id: :string) { |t| t.string :name }
    create_table(:tag, id: :string)
  end },
  Class.new(Step) { def up
    add_column :item, :qty, :integer, default: 0
    add_index :item, :name
  end },
  Class.new(Step) { def up; rename_column :item, :name, :title; end },
  Class.new(Step) { def up; change_column :item, :qty, :bigint, default: 0, null: false; end },
  Class.new(Step) { def up; drop_table :tag; end },
]
if dump
  require "active_record/schema_dumper"
  ActiveRecord::SchemaDumper.ignore_tables << /\A__harmonylite__/ if dump == "ignoring"
  ActiveRecord::SchemaDumper.dump(ActiveRecord::Base.connection, $stdout)
  exit
end
steps = STEPS.first(upto.to_i).each_with_index.map { |step, i| step.new("M#{i + 1}", i + 1) }
schema = ActiveRecord::Base.connection.schema_migration
schema.create_table
before = schema.all_versions.size
ActiveRecord::Migrator.new(:up, steps, schema).migrate
ran = schema.all_versions.size - before
puts "ran: #{ran if ran > 0}"
