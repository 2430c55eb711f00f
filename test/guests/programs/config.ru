# A web application that writes a row for each POST, and answers with its number and the worker's id.
require "sqlite3"

def connect
  db = SQLite3::Database.new(ENV["DATABASE"])
  db.busy_timeout(60_000)
  db.execute("CREATE TABLE IF NOT EXISTS note(id INTEGER PRIMARY KEY, worker, text)")
  db
end

# SQLite forbids the use of a connection in another process, not that it stays open there.
$inherited = connect if ENV["OPEN"] == "before"
$inherited&.execute("INSERT INTO note(worker, text) VALUES (?, 'before the fork')", [Process.pid])

run lambda { |env|
  db = Thread.current.thread_variable_get(:db)
  Thread.current.thread_variable_set(:db, db = connect) unless db
  db.execute("INSERT INTO note(worker, text) VALUES (?, ?)", [Process.pid, env["rack.input"].read.force_encoding("UTF-8")])
  [200, {"content-type" => "text/plain"}, ["#{db.last_insert_row_id} #{Process.pid}"]]
}
