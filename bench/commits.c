// The application of the benchmark: one connection that commits rows, and says how long that took.
//
//   commits [-load EXTENSION] DATABASE      DATABASE is a path or a file: URI
//
// reads commands from standard input and answers each with one line of JSON:
//   setup             WAL mode, synchronous=NORMAL, the tables
//   full              synchronous=FULL
//   thread            starts a thread that does nothing
//   eager             writers that wait for the write lock look the more often the fewer they are
//   insert N RATE     N commits of one new row; RATE per second, 0 for as fast as it goes
//   update N RATE     N commits that change the same row
//   random N RATE     N commits that change one of the rows
//   fill MIB          that much incompressible data, then a checkpoint
//   wait MS           sqlstream_wait(MS)
//   rows N            a table of N rows, checkpointed
//   databases N       opens N more: DATABASE with a number before its ".db"
//   spread N RATE     N commits of one new row, to one of these after the other
//   waitall MS        sqlstream_wait(MS) on each of them
//   segments N        N segments, each an update of one of these rows
//   writers N SECONDS [MS]
//                     N threads with a connection each commit rows of their own, as fast as it
//                     goes; counted from the second second on, when all of them are under way.
//                     MS: each commits one, then all wait so long, as for a store that takes no
//                     work and has no spread
// It ends, closing the database, at the end of its input.

#define _GNU_SOURCE
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <sqlite3.h>

enum { kRowBytes = 100, kFillBytes = 1 << 20 };

static sqlite3* db;
static const char* database;

static void fail(const char* what) {
  fprintf(stderr, "commits: %s: %s\n", what, db ? sqlite3_errmsg(db) : "no database");
  exit(1);
}

static void run(const char* sql) {
  if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) fail(sql);
}

static sqlite3_stmt* prepare(const char* sql) {
  sqlite3_stmt* statement = NULL;
  if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK) fail(sql);
  return statement;
}

static int64_t clock_ns(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

// splitmix64: the same data in every run, and none that a compressor can shrink.
static uint64_t random_state = 1;
static void random_bytes(unsigned char* to, size_t size) {
  for (size_t i = 0; i < size; i += 8) {
    uint64_t z = (random_state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    z ^= z >> 31;
    memcpy(to + i, &z, size - i < 8 ? size - i : 8);
  }
}

static void load(const char* extension) {
  // The VFS stays registered when the connection that loaded it is gone.
  if (sqlite3_open(":memory:", &db) != SQLITE_OK) fail("opening a database in memory");
  sqlite3_enable_load_extension(db, 1);
  char* why = NULL;
  if (sqlite3_load_extension(db, extension, NULL, &why) != SQLITE_OK) {
    fprintf(stderr, "commits: cannot load %s: %s\n", extension, why ? why : "unknown");
    exit(1);
  }
  sqlite3_close(db);
}

static int ascending(const void* a, const void* b) {
  const uint32_t x = *(const uint32_t*)a, y = *(const uint32_t*)b;
  return x < y ? -1 : x > y;
}

// Commits `count` times, with the `statements` in turn; the first parameter is a row's content.
static void commit_rows(sqlite3_stmt** statements, long many, long count, double rate) {
  uint32_t* took = malloc((size_t)count * sizeof *took);
  if (!took) fail("out of memory");
  const int64_t begun_unix = clock_ns(CLOCK_REALTIME);
  const int64_t begun = clock_ns(CLOCK_MONOTONIC);
  const int64_t cpu_begun = clock_ns(CLOCK_THREAD_CPUTIME_ID);
  int64_t ended = begun;
  for (long i = 0; i < count; ++i) {
    unsigned char row[kRowBytes];
    random_bytes(row, sizeof row);
    int64_t before = ended;
    if (rate > 0) {
      const int64_t due = begun + (int64_t)((double)i * 1e9 / rate);
      const struct timespec at = {due / 1000000000, due % 1000000000};
      while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) != 0) {
      }
      before = clock_ns(CLOCK_MONOTONIC);
    }
    sqlite3_stmt* statement = statements[i % many];
    sqlite3_bind_blob(statement, 1, row, sizeof row, SQLITE_STATIC);
    if (sqlite3_step(statement) != SQLITE_DONE) fail(sqlite3_sql(statement));
    sqlite3_reset(statement);
    ended = clock_ns(CLOCK_MONOTONIC);
    const int64_t nanoseconds = ended - before;
    took[i] = nanoseconds > UINT32_MAX ? UINT32_MAX : (uint32_t)nanoseconds;
  }
  const int64_t cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_begun;
  qsort(took, (size_t)count, sizeof *took, ascending);
  printf("{\"commits\":%ld,\"seconds\":%.6f,\"thread_cpu_seconds\":%.6f,\"ended_ns\":%" PRId64
         ",\"begun_unix_ns\":%" PRId64 ",\"p50_us\":%.1f,\"p99_us\":%.1f,\"worst_us\":%.1f}\n",
         count, (double)(ended - begun) / 1e9, (double)cpu / 1e9, ended, begun_unix,
         took[count / 2] / 1e3, took[count - 1 - count / 100] / 1e3, took[count - 1] / 1e3);
  free(took);
}

static void commit_with(const char* sql, long count, double rate) {
  sqlite3_stmt* statement = prepare(sql);
  commit_rows(&statement, 1, count, rate);
  sqlite3_finalize(statement);
}

// One of many writers. A commit is timed once the write lock is there: how long SQLite lets others
// wait for that is its busy handler's affair. Where 64 look more often than that, they keep the two
// cores from the one that has it.
enum { kLookEvery = 500, kLookEveryEach = 24 };  // microseconds

static int eager;  // the lock must not be free for long when the last of them wait for it either
static atomic_long waiting_for_lock;

static unsigned pause_us;
static pthread_barrier_t round_ends;
static int rounds_over;  // changes while all wait

struct writer {
  pthread_t thread;
  int64_t from;
  int64_t until;
  long rows;
  long commits;
  uint32_t took[1 << 20];
};

static int wait_for_lock(void* unused, int calls) {
  (void)unused;
  (void)calls;
  usleep(eager ? (unsigned)(kLookEveryEach * atomic_load(&waiting_for_lock)) : kLookEvery);
  return 1;
}

static void pause_together(int64_t until) {
  if (pthread_barrier_wait(&round_ends) == PTHREAD_BARRIER_SERIAL_THREAD) {
    usleep(pause_us);
    rounds_over = clock_ns(CLOCK_MONOTONIC) >= until;
  }
  pthread_barrier_wait(&round_ends);
}

static void* write_rows(void* argument) {
  struct writer* self = argument;
  sqlite3* own = NULL;
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_URI;
  if (sqlite3_open_v2(database, &own, flags, NULL) != SQLITE_OK) return "opening";
  sqlite3_busy_handler(own, wait_for_lock, NULL);
  if (eager) prctl(PR_SET_TIMERSLACK, 1UL);
  if (sqlite3_exec(own, "PRAGMA synchronous=NORMAL", NULL, NULL, NULL) != SQLITE_OK)
    return "PRAGMA";
  const long most = sizeof self->took / sizeof *self->took;
  while (self->commits < most &&
         (pause_us > 0 ? !rounds_over : clock_ns(CLOCK_MONOTONIC) < self->until)) {
    atomic_fetch_add(&waiting_for_lock, 1);
    const int begun = sqlite3_exec(own, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    atomic_fetch_sub(&waiting_for_lock, 1);
    if (begun != SQLITE_OK) return "beginning";
    if (sqlite3_exec(own, "INSERT INTO row(data) VALUES(randomblob(100))", NULL, NULL, NULL) !=
        SQLITE_OK) {
      return "inserting";
    }
    const int64_t before = clock_ns(CLOCK_MONOTONIC);
    if (sqlite3_exec(own, "COMMIT", NULL, NULL, NULL) != SQLITE_OK) return "committing";
    if (pause_us > 0) pause_together(self->until);
    ++self->rows;
    if (before < self->from) continue;
    const int64_t took = clock_ns(CLOCK_MONOTONIC) - before;
    self->took[self->commits++] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
  }
  sqlite3_close(own);
  return NULL;
}

static void many_writers(long count, double seconds, double pause_ms) {
  pause_us = (unsigned)(pause_ms * 1000);
  rounds_over = 0;
  pthread_barrier_init(&round_ends, NULL, (unsigned)count);
  struct writer* all = calloc((size_t)count, sizeof *all);
  if (!all) fail("out of memory");
  const int64_t begun = clock_ns(CLOCK_MONOTONIC);
  for (long i = 0; i < count; ++i) {
    all[i].from = begun + 1000000000;
    all[i].until = all[i].from + (int64_t)(seconds * 1e9);
    if (pthread_create(&all[i].thread, NULL, write_rows, &all[i]) != 0) fail("starting a thread");
  }
  long rows = 0;
  long commits = 0;
  for (long i = 0; i < count; ++i) {
    void* failed = NULL;
    pthread_join(all[i].thread, &failed);
    if (failed) fail(failed);
    rows += all[i].rows;
    commits += all[i].commits;
  }
  const int64_t ended = clock_ns(CLOCK_MONOTONIC);
  uint32_t* took = malloc((size_t)(commits + 1) * sizeof *took);
  if (!took || commits == 0) fail("no commits");
  long next = 0;
  for (long i = 0; i < count; ++i) {
    memcpy(took + next, all[i].took, (size_t)all[i].commits * sizeof *took);
    next += all[i].commits;
  }
  qsort(took, (size_t)commits, sizeof *took, ascending);
  printf(
      "{\"rows\":%ld,\"commits\":%ld,\"seconds\":%.6f,\"p50_us\":%.1f,\"p99_us\":%.1f,"
      "\"worst_us\":%.1f}\n",
      rows, commits, (double)(ended - all[0].from) / 1e9, took[commits / 2] / 1e3,
      took[commits - 1 - commits / 100] / 1e3, took[commits - 1] / 1e3);
  pthread_barrier_destroy(&round_ends);
  free(took);
  free(all);
}

static void* sleep_forever(void* unused) {
  while (1) pause();
  return unused;
}

static void start_thread(void) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, sleep_forever, NULL) != 0) fail("starting a thread");
}

static void fill(long mebibytes) {
  unsigned char* blob = malloc(kFillBytes);
  if (!blob) fail("out of memory");
  sqlite3_stmt* statement = prepare("INSERT INTO filler(data) VALUES(?)");
  run("BEGIN");
  for (long i = 0; i < mebibytes; ++i) {
    random_bytes(blob, kFillBytes);
    sqlite3_bind_blob(statement, 1, blob, kFillBytes, SQLITE_STATIC);
    if (sqlite3_step(statement) != SQLITE_DONE) fail("filling");
    sqlite3_reset(statement);
    if (i % 16 == 15) run("COMMIT; BEGIN");
  }
  run("COMMIT");
  sqlite3_finalize(statement);
  run("PRAGMA wal_checkpoint(TRUNCATE)");
  free(blob);
  printf("{\"mebibytes\":%ld}\n", mebibytes);
}

static int wait_shipped(sqlite3* on, long milliseconds) {
  sqlite3_stmt* statement = NULL;
  if (sqlite3_prepare_v2(on, "SELECT sqlstream_wait(?)", -1, &statement, NULL) != SQLITE_OK) {
    fail("sqlstream_wait");
  }
  sqlite3_bind_int64(statement, 1, milliseconds);
  if (sqlite3_step(statement) != SQLITE_ROW) fail("sqlstream_wait");
  const int shipped = sqlite3_column_int(statement, 0);
  sqlite3_finalize(statement);
  return shipped;
}

static void rows(long count) {
  char sql[200];
  snprintf(sql, sizeof sql,
           "INSERT INTO row(data) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n "
           "WHERE i<%ld) SELECT randomblob(%d) FROM n",
           count, kRowBytes);
  run(sql);
  run("PRAGMA wal_checkpoint(TRUNCATE)");
  printf("{\"rows\":%ld}\n", count);
}

static long newest_row(void) {
  sqlite3_stmt* statement = prepare("SELECT max(id) FROM row");
  if (sqlite3_step(statement) != SQLITE_ROW) fail("looking for the newest row");
  const long id = (long)sqlite3_column_int64(statement, 0);
  sqlite3_finalize(statement);
  return id;
}

static void commit_random(long count, double rate) {
  char sql[100];
  snprintf(sql, sizeof sql, "UPDATE row SET data=? WHERE id=1+abs(random())%%%ld", newest_row());
  commit_with(sql, count, rate);
}

// A history of that many segments, each of one commit.
static void segments(long count) {
  char sql[200];
  snprintf(sql, sizeof sql, "UPDATE row SET data=randomblob(%d) WHERE id=1+abs(random())%%%ld",
           kRowBytes, newest_row());
  sqlite3_stmt* update = prepare(sql);
  for (long i = 0; i < count; ++i) {
    if (sqlite3_step(update) != SQLITE_DONE) fail(sql);
    sqlite3_reset(update);
    if (!wait_shipped(db, 60000)) fail("waited in vain for a segment");
  }
  sqlite3_finalize(update);
  printf("{\"segments\":%ld}\n", count);
}

// Many databases in one process: each has a connection, and a statement that commits a row.
static long many;
static sqlite3** others;
static sqlite3_stmt** inserts;

static void open_databases(long count) {
  const char* suffix = strstr(database, ".db");
  others = calloc((size_t)count, sizeof *others);
  inserts = calloc((size_t)count, sizeof *inserts);
  if (!suffix || !others || !inserts) fail("many databases");
  for (; many < count; ++many) {
    char name[4096];
    snprintf(name, sizeof name, "%.*s-%ld%s", (int)(suffix - database), database, many, suffix);
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI;
    sqlite3** own = &others[many];
    if (sqlite3_open_v2(name, own, flags, NULL) != SQLITE_OK) fail(name);
    sqlite3_busy_timeout(*own, 5000);
    if (sqlite3_exec(*own,
                     "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
                     "CREATE TABLE row(id INTEGER PRIMARY KEY, data BLOB)",
                     NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(*own, "INSERT INTO row(data) VALUES(?)", -1, &inserts[many], NULL) !=
            SQLITE_OK) {
      fail(name);
    }
  }
  printf("{\"databases\":%ld}\n", many);
}

static int wait_all_shipped(long milliseconds) {
  for (long i = 0; i < many; ++i) {
    if (!wait_shipped(others[i], milliseconds)) return 0;
  }
  return 1;
}

static void close_databases(void) {
  for (long i = 0; i < many; ++i) {
    sqlite3_finalize(inserts[i]);
    if (sqlite3_close(others[i]) != SQLITE_OK) fail("closing");
  }
  free(inserts);
  free(others);
}

int main(int argc, char** argv) {
  int next = 1;
  if (argc == 4 && strcmp(argv[1], "-load") == 0) {
    load(argv[2]);
    next = 3;
  }
  if (next != argc - 1) {
    fprintf(stderr, "usage: commits [-load EXTENSION] DATABASE\n");
    return 2;
  }
  database = argv[next];
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI;
  if (sqlite3_open_v2(database, &db, flags, NULL) != SQLITE_OK) fail(database);
  // As Litestream asks of applications: its checkpoints hold the write lock for moments.
  sqlite3_busy_timeout(db, 5000);
  // Settings of this connection; the mode is the database's.
  run("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL");

  char line[128];
  while (fgets(line, sizeof line, stdin)) {
    char command[16] = "";
    double amount = 0, rate = 0, more = 0;
    sscanf(line, "%15s %lf %lf %lf", command, &amount, &rate, &more);
    if (strcmp(command, "setup") == 0) {
      run("CREATE TABLE IF NOT EXISTS row(id INTEGER PRIMARY KEY, data BLOB);"
          "CREATE TABLE IF NOT EXISTS hot(id INTEGER PRIMARY KEY, data BLOB);"
          "CREATE TABLE IF NOT EXISTS filler(id INTEGER PRIMARY KEY, data BLOB);"
          "INSERT OR REPLACE INTO hot VALUES(1, zeroblob(100))");
      printf("{\"sqlite\":\"%s\"}\n", sqlite3_libversion());
    } else if (strcmp(command, "insert") == 0 && amount >= 1) {
      commit_with("INSERT INTO row(data) VALUES(?)", (long)amount, rate);
    } else if (strcmp(command, "update") == 0 && amount >= 1) {
      commit_with("UPDATE hot SET data=? WHERE id=1", (long)amount, rate);
    } else if (strcmp(command, "random") == 0 && amount >= 1) {
      commit_random((long)amount, rate);
    } else if (strcmp(command, "full") == 0) {
      run("PRAGMA synchronous=FULL");
      printf("{}\n");
    } else if (strcmp(command, "thread") == 0) {
      start_thread();
      printf("{}\n");
    } else if (strcmp(command, "eager") == 0) {
      eager = 1;
      printf("{}\n");
    } else if (strcmp(command, "databases") == 0 && amount >= 1 && many == 0) {
      open_databases((long)amount);
    } else if (strcmp(command, "spread") == 0 && amount >= 1 && many > 0) {
      commit_rows(inserts, many, (long)amount, rate);
    } else if (strcmp(command, "waitall") == 0) {
      printf("{\"shipped\":%d}\n", wait_all_shipped((long)amount));
    } else if (strcmp(command, "fill") == 0) {
      fill((long)amount);
    } else if (strcmp(command, "wait") == 0) {
      printf("{\"shipped\":%d}\n", wait_shipped(db, (long)amount));
    } else if (strcmp(command, "rows") == 0 && amount >= 1) {
      rows((long)amount);
    } else if (strcmp(command, "segments") == 0 && amount >= 1) {
      segments((long)amount);
    } else if (strcmp(command, "writers") == 0 && amount >= 1 && rate > 0) {
      many_writers((long)amount, rate, more);
    } else {
      fprintf(stderr, "commits: unknown command: %s", line);
      return 2;
    }
    fflush(stdout);
  }
  close_databases();
  if (sqlite3_close(db) != SQLITE_OK) fail("closing");
  return 0;
}
