<?php
// laravel.php DATABASE VERSION: runs the migrations up to this one, as `artisan migrate` does.
require "/usr/share/php/Illuminate/autoload.php";
use Illuminate\Database\Capsule\Manager;
use Illuminate\Database\Migrations\{DatabaseMigrationRepository, Migrator};
use Illuminate\Filesystem\Filesystem;

[, $path, $upto] = $argv;
touch($path);
$steps = [
    'Capsule::schema()->create("item", function ($t) { $t->string("id")->primary(); '
        . '$t->string("name")->nullable(); });'
        . 'Capsule::schema()->create("tag", function ($t) { $t->string("id")->primary(); });',
    'Capsule::schema()->table("item", function ($t) { $t->integer("qty")->default(0)->nullable(); '
        . '$t->index("name"); });',
    'Capsule::connection()->statement("ALTER TABLE item RENAME COLUMN name TO title");',
    'Capsule::schema()->table("item", function ($t) { $t->string("note")->nullable(); });',
    'Capsule::schema()->drop("tag");',
];
$folder = sys_get_temp_dir() . "/laravel-" . getmypid();
mkdir($folder);
foreach (array_slice($steps, 0, (int) $upto) as $i => $step) {
    $n = $i + 1;
    file_put_contents("$folder/2024_01_0{$n}_000000_m$n.php", "<?php
        use Illuminate\\Database\\Capsule\\Manager as Capsule;
        class M$n extends Illuminate\\Database\\Migrations\\Migration { function up() { $step } }");
}
$capsule = new Manager;
$capsule->addConnection(["driver" => "sqlite", "database" => $path, "prefix" => ""]);
$capsule->setAsGlobal();
$capsule->bootEloquent();
$resolver = $capsule->getDatabaseManager();
$resolver->connection()->statement("PRAGMA busy_timeout = 20000");
$repository = new DatabaseMigrationRepository($resolver, "migrations");
if (!$repository->repositoryExists()) {
    $repository->createRepository();
}
$ran = (new Migrator($repository, $resolver, new Filesystem))->run([$folder]);
echo "ran: " . implode(",", array_map("basename", $ran)) . "\n";
array_map("unlink", glob("$folder/*"));
rmdir($folder);
