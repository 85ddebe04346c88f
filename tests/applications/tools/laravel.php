<?php
// laravel.php DATABASE VERSION: a Laravel application that runs `artisan migrate --force` with the
// migrations up to this one.
require "/usr/share/php/Illuminate/autoload.php";
require "/usr/share/php/Doctrine/DBAL/autoload.php"; // Laravel 8 needs it to rebuild a table
use Illuminate\Contracts\Console\Kernel as Console;
use Illuminate\Contracts\Debug\ExceptionHandler;
use Illuminate\Foundation\{Application, Bootstrap\LoadConfiguration, Console\Kernel};
use Illuminate\Foundation\Exceptions\Handler;

// Debian's Laravel is older than its PHP.
error_reporting(E_ALL & ~E_DEPRECATED);
[, $path, $upto] = $argv;
touch($path);
// Laravel rebuilds a table in five statements. Without a transaction it loses what others write
// meanwhile. The first statement takes the write lock before anything is read, so that the others
// do not fail with "database is locked".
$lock = 'DB::statement("DELETE FROM migrations WHERE 0");';
$whole = fn ($text) => "DB::transaction(function () { $lock $text });";
$table = fn ($name, $text) => "Schema::table('$name', function (\$t) { $text });";
$steps = [
    'Schema::create("item", function ($t) { $t->string("id")->primary(); '
        . '$t->string("name")->nullable(); });'
        . 'Schema::create("tag", function ($t) { $t->string("id")->primary(); });',
    $table("item", '$t->integer("qty")->default(0)->nullable(); $t->text("note")->nullable(); '
        . '$t->index("name");'),
    $whole($table("item", '$t->renameColumn("name", "title");')),
    $whole($table("item", '$t->bigInteger("qty")->default(0)->nullable(false)->change();')),
    'Schema::drop("tag");',
    $whole($table("item", '$t->dropColumn("note");')),
    'Schema::rename("item", "article");',
];
$root = sys_get_temp_dir() . "/laravel-" . getmypid();
mkdir("$root/bootstrap/cache", 0777, true);
mkdir("$root/config");
mkdir("$root/migrations");
foreach (array_slice($steps, 0, (int) $upto) as $i => $step) {
    $n = $i + 1;
    file_put_contents("$root/migrations/2024_01_0{$n}_000000_m$n.php", "<?php
        use Illuminate\\Support\\Facades\\{DB, Schema};
        class M$n extends Illuminate\\Database\\Migrations\\Migration { function up() { $step } }");
}
$providers = array_map(fn ($name) => "Illuminate\\$name", [
    "Cache\\CacheServiceProvider", "Database\\DatabaseServiceProvider",
    "Filesystem\\FilesystemServiceProvider", "Foundation\\Providers\\ConsoleSupportServiceProvider",
    "Queue\\QueueServiceProvider", "View\\ViewServiceProvider",
]);
$config = [
    "app" => ["name" => "x", "env" => "production", "timezone" => "UTC", "locale" => "en",
        "providers" => $providers, "aliases" => []],
    "cache" => ["default" => "array", "stores" => ["array" => ["driver" => "array"]]],
    "database" => ["default" => "sqlite", "migrations" => "migrations", "connections" => [
        "sqlite" => ["driver" => "sqlite", "database" => $path, "prefix" => ""]]],
    "queue" => ["default" => "sync", "connections" => ["sync" => ["driver" => "sync"]]],
    "view" => ["paths" => [], "compiled" => $root],
];
foreach ($config as $name => $values) {
    file_put_contents("$root/config/$name.php", "<?php return " . var_export($values, true) . ";");
}
$app = new Application($root);
$app->singleton(Console::class, Kernel::class);
$app->singleton(ExceptionHandler::class, Handler::class);
$kernel = $app->make(Console::class);
$kernel->bootstrap();
error_reporting(E_ALL & ~E_DEPRECATED);
$app["db"]->statement("PRAGMA busy_timeout = 20000");
$options = ["--force" => true, "--path" => "$root/migrations", "--realpath" => true];
$status = $kernel->call("migrate", $options);
$said = $kernel->output();
(new Illuminate\Filesystem\Filesystem)->deleteDirectory($root);
if ($status) {
    exit($said);
}
preg_match_all("/Migrated:\s+(\S+)/", $said, $ran);
echo "ran: " . implode(",", $ran[1]) . "\n";
