# rails.rb DATABASE VERSION: a Rails application that runs `db:migrate` up to this version, and so
# writes db/schema.rb. Prints what ran, and the tables that schema.rb has beside the application's.
require "rails"
require "active_record/railtie"
require "tmpdir"
path, upto = ARGV

STEPS = [
  "create_table(:item, id: :string) { |t| t.string :name }; create_table(:tag, id: :string)",
  "add_column :item, :qty, :integer, default: 0; add_column :item, :note, :text; " \
    "add_index :item, :name",
  "rename_column :item, :name, :title", # a rebuild
  "change_column :item, :qty, :bigint, default: 0, null: false",
  "drop_table :tag",
  "remove_column :item, :note",
  "rename_table :item, :article",
].first(upto.to_i)

class Application < Rails::Application
  config.root = Dir.mktmpdir("rails-")
  config.load_defaults 6.1
  config.eager_load = false
  config.logger = Logger.new(nil)
  config.secret_key_base = "-"
end

root = Rails.application.root
at_exit { FileUtils.rm_rf(root) }
FileUtils.mkdir_p(root.join("db/migrate"))
# Takes the write lock before anything is read, so that what follows does not fail with "database is
# locked".
LOCK = "execute 'DELETE FROM schema_migrations WHERE 0'"
STEPS.each_with_index do |step, i|
  text = "class M#{i + 1} < ActiveRecord::Migration[6.1]\n def up\n #{LOCK}\n #{step}\n end\nend"
  root.join("db/migrate/#{i + 1}_m#{i + 1}.rb").write(text)
end
ENV["DATABASE_URL"] = "sqlite3:#{path}?timeout=20000"
# docs/schema-changes.md: config/initializers/harmonylite.rb
ActiveRecord::SchemaDumper.ignore_tables << /\A__harmonylite__/
Rails.application.initialize!
Rails.application.load_tasks
ran = -> { ActiveRecord::Base.connection.migration_context.get_all_versions }
before = ran.call
Rake::Task["db:migrate"].invoke
schema = root.join("db/schema.rb").read
others = schema.scan(/create_table "([^"]+)"/).flatten - %w[item tag article]
abort "schema.rb has #{others}" unless others.empty?
puts "ran: #{(ran.call - before).join(",")}"
