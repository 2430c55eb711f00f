// Put beside the tests of go-sqlite3: loads the extension that the environment names into its SQLite.
package sqlite3

import (
	"database/sql"
	"os"
)

func init() {
	extension := os.Getenv("GUEST_EXTENSION")
	if extension == "" {
		return
	}
	sql.Register("guest-loader", &SQLiteDriver{Extensions: []string{extension}})
	db, err := sql.Open("guest-loader", ":memory:")
	if err == nil {
		err = db.Ping()
	}
	if err != nil {
		panic(err)
	}
}
