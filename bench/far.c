// A store that is far away: a proxy before a near one, with latency and a bandwidth.
//
//   far MS MIB_PER_S PORT
//
// listens on a free port of 127.0.0.1, prints it, and passes every connection on to PORT there.
// What a client sends arrives MS milliseconds later; what comes back is not delayed, so that an
// exchange takes MS longer. All connections together get at most MIB_PER_S each way; 0: as much as
// there is. Ends at the end of its input.
//
// Several processes share the work, since each may have so many descriptors only, and some clients
// keep a connection for every object they read.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { kChunk = 64 << 10, kMaxHeld = 1 << 20, kProcesses = 4, kOtherFiles = 16 };

static int64_t delay_ns;
static double bytes_per_ns;  // 0: no limit
static int epoll_fd;

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void fail(const char* what) {
  perror(what);
  exit(1);
}

// Bytes on their way, and when the first of them may go on.
struct Chunk {
  struct Chunk* next;
  int64_t due;
  size_t size, sent;
  char data[];
};

// One direction of a connection.
struct Flow {
  int from, to;
  int64_t delay;
  struct Chunk *first, *last;
  size_t held;
  int readable, writable, ended, closed;
  _Atomic int64_t* paid_until;  // of this direction, over all connections
};

struct Link {
  struct Link *next, **previous;
  struct Flow flows[2];
  int dead;
};

// What epoll reports about: a socket of a link.
struct End {
  struct Link* link;
  int side;  // 0: the client's, 1: the store's
};

struct Pair {
  struct Link link;
  struct End ends[2];
};

static struct Link* links;
static size_t link_count, most_links;  // of this process
static _Atomic int64_t* paid_until;    // two, shared by all processes

// When so many bytes have gone through, after all that goes before them.
static int64_t pay(_Atomic int64_t* until, size_t bytes) {
  int64_t before = atomic_load(until), after;
  do {
    const int64_t now = now_ns();
    after = (before > now ? before : now) + (int64_t)((double)bytes / bytes_per_ns);
  } while (!atomic_compare_exchange_weak(until, &before, after));
  return after;
}

static void watch(int fd, void* data) {
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                              .data.ptr = data};
  if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) fail("epoll_ctl");
}

static struct sockaddr_in loopback(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

static void open_link(int client, int port) {
  const int one = 1;
  const int store = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (store < 0) fail("socket");
  setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(store, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  const struct sockaddr_in address = loopback(port);
  if (connect(store, (const struct sockaddr*)&address, sizeof address) != 0 &&
      errno != EINPROGRESS) {
    fail("connect");
  }
  struct Pair* pair = calloc(1, sizeof *pair);
  if (!pair) fail("calloc");
  struct Link* link = &pair->link;
  for (int i = 0; i < 2; ++i) {
    link->flows[i].from = i == 0 ? client : store;
    link->flows[i].to = i == 0 ? store : client;
    link->flows[i].delay = i == 0 ? delay_ns : 0;
    link->flows[i].paid_until = &paid_until[i];
    pair->ends[i] = (struct End){link, i};
  }
  link->next = links;
  link->previous = &links;
  if (links) links->previous = &link->next;
  links = link;
  ++link_count;
  watch(client, &pair->ends[0]);
  watch(store, &pair->ends[1]);
}

static void close_link(struct Link* link) {
  for (int i = 0; i < 2; ++i) {
    close(link->flows[i].from);
    while (link->flows[i].first) {
      struct Chunk* chunk = link->flows[i].first;
      link->flows[i].first = chunk->next;
      free(chunk);
    }
  }
  *link->previous = link->next;
  if (link->next) link->next->previous = link->previous;
  --link_count;
  free(link);
}

static void take(struct Flow* flow, struct Link* link) {
  static char buffer[kChunk];
  while (flow->readable && !flow->ended && flow->held < kMaxHeld) {
    const ssize_t n = read(flow->from, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      flow->readable = 0;
      return;
    }
    if (n < 0) {
      link->dead = 1;
      return;
    }
    if (n == 0) {
      flow->ended = 1;
      return;
    }
    struct Chunk* chunk = malloc(sizeof *chunk + (size_t)n);
    if (!chunk) fail("malloc");
    *chunk = (struct Chunk){.due = now_ns() + flow->delay, .size = (size_t)n};
    memcpy(chunk->data, buffer, (size_t)n);
    if (bytes_per_ns > 0) {
      const int64_t due = pay(flow->paid_until, (size_t)n) + flow->delay;
      if (chunk->due < due) chunk->due = due;
    }
    if (flow->last && flow->first) {
      flow->last->next = chunk;
    } else {
      flow->first = chunk;
    }
    flow->last = chunk;
    flow->held += (size_t)n;
  }
}

static void give(struct Flow* flow, struct Link* link, int64_t now) {
  while (flow->writable && flow->first && flow->first->due <= now) {
    struct Chunk* chunk = flow->first;
    const ssize_t n =
        send(flow->to, chunk->data + chunk->sent, chunk->size - chunk->sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == ENOTCONN)) {
      flow->writable = 0;
      return;
    }
    if (n < 0) {
      link->dead = 1;
      return;
    }
    chunk->sent += (size_t)n;
    flow->held -= (size_t)n;
    if (chunk->sent == chunk->size) {
      flow->first = chunk->next;
      free(chunk);
    }
  }
  if (flow->ended && !flow->first && !flow->closed) {
    flow->closed = 1;
    shutdown(flow->to, SHUT_WR);
  }
}

// Moves what can be moved; returns when the next chunk is due, or INT64_MAX.
static int64_t move(struct Link* link) {
  int64_t next = INT64_MAX;
  for (int i = 0; i < 2; ++i) {
    struct Flow* flow = &link->flows[i];
    // What is given makes room, and for what is left to read nothing is reported again.
    do {
      take(flow, link);
      give(flow, link, now_ns());
    } while (flow->readable && !flow->ended && flow->held < kMaxHeld && !link->dead);
    if (flow->first && flow->writable && flow->first->due < next) next = flow->first->due;
  }
  if (link->flows[0].closed && link->flows[1].closed) link->dead = 1;
  return next;
}

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: far MS MIB_PER_S PORT\n");
    return 2;
  }
  delay_ns = (int64_t)(atof(argv[1]) * 1e6);
  bytes_per_ns = atof(argv[2]) * (1 << 20) / 1e9;
  const int port = atoi(argv[3]);
  signal(SIGPIPE, SIG_IGN);
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  most_links = (files.rlim_cur - kOtherFiles) / 2;
  paid_until =
      mmap(NULL, 2 * sizeof *paid_until, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (paid_until == MAP_FAILED) fail("mmap");
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = loopback(0);
  socklen_t size = sizeof address;
  if (listener < 0 || bind(listener, (struct sockaddr*)&address, size) != 0 ||
      listen(listener, 1024) != 0 ||
      getsockname(listener, (struct sockaddr*)&address, &size) != 0) {
    fail("listen");
  }
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);
  // All of them are told of a connection and of the end of the input.
  for (int i = 1; i < kProcesses; ++i) {
    const pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) break;
  }
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd < 0) fail("epoll_create1");
  static struct End input;
  watch(listener, NULL);
  // Input that is a file or /dev/null cannot be watched, and has ended.
  watch(STDIN_FILENO, &input);

  int64_t next = INT64_MAX;
  while (1) {
    struct epoll_event events[256];
    struct timespec timeout = {0};
    const int64_t wait = next == INT64_MAX ? 0 : next - now_ns();
    if (wait > 0) timeout = (struct timespec){wait / 1000000000, wait % 1000000000};
    const int n = epoll_pwait2(epoll_fd, events, 256, next == INT64_MAX ? NULL : &timeout, NULL);
    if (n < 0 && errno != EINTR) fail("epoll_pwait2");
    for (int i = 0; i < n; ++i) {
      struct End* end = events[i].data.ptr;
      if (end == &input) {
        char ignored[256];
        if (read(STDIN_FILENO, ignored, sizeof ignored) == 0) return 0;
        continue;
      }
      if (!end) {
        int client;
        while (link_count < most_links &&
               (client = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
          open_link(client, port);
        }
        continue;
      }
      if (events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP)) {
        end->link->flows[end->side].readable = 1;
      }
      if (events[i].events & EPOLLOUT) end->link->flows[1 - end->side].writable = 1;
      if (events[i].events & EPOLLERR) end->link->dead = 1;
    }
    next = INT64_MAX;
    for (struct Link *link = links, *following; link; link = following) {
      following = link->next;
      const int64_t due = move(link);
      if (link->dead) {
        close_link(link);
      } else if (due < next) {
        next = due;
      }
    }
  }
}
