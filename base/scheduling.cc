#include "base/scheduling.h"

#include <array>
#include <atomic>
#include <fcntl.h>
#include <mutex>
#include <new>
#include <optional>
#include <sched.h>
#include <string_view>
#include <unistd.h>

#include "base/fork.h"
#include "base/unique_fd.h"

namespace sqlstream {
namespace {

std::atomic<bool> waiting{false};
std::mutex list_mutex;  // not allocated: that could fail, and nobody would catch it here
InterruptsNobody* first = nullptr;  // list_mutex

// A thread may get a filter at any time, but never loses it. Nothing: it cannot be known now.
std::optional<bool> are_calls_filtered() noexcept {
  const UniqueFd status(::open("/proc/thread-self/status", O_RDONLY | O_CLOEXEC));
  std::array<char, 4096> bytes{};
  const ssize_t n = status ? ::read(status.get(), bytes.data(), bytes.size()) : -1;
  if (n <= 0) return std::nullopt;
  const std::string_view text(bytes.data(), static_cast<std::size_t>(n));
  return text.find("\nSeccomp:\t0\n") == text.npos;
}

void set_policy(pid_t thread, int policy) noexcept {
  const sched_param same{};
  ::sched_setscheduler(thread, policy, &same);
}

}  // namespace

InterruptsNobody::InterruptsNobody() noexcept {
  if (are_calls_filtered().value_or(true)) return;
  const int policy = ::sched_getscheduler(0);
  if (policy != SCHED_OTHER && policy != SCHED_BATCH) return;
  // In a child of fork() the others' threads do not exist.
  call_in_child([] {
    first = nullptr;
    new (&list_mutex) std::mutex();
  });
  const std::lock_guard lock(list_mutex);
  // From the thread that began this one, which is one of these: else somebody chose it.
  const bool inherited = policy == SCHED_BATCH;
  if (inherited && first == nullptr) return;
  const bool interrupts = waiting.load();
  if (interrupts && inherited) set_policy(0, SCHED_OTHER);
  if (interrupts) return;
  if (!inherited) set_policy(0, SCHED_BATCH);
  id_ = ::gettid();
  next_ = first;
  first = this;
}

InterruptsNobody::~InterruptsNobody() {
  if (id_ == 0) return;
  const std::lock_guard lock(list_mutex);
  InterruptsNobody** place = &first;
  while (*place != this) place = &(*place)->next_;
  *place = next_;
}

void somebody_waits() noexcept {
  if (waiting.load(std::memory_order_relaxed) || waiting.exchange(true)) return;
  const std::lock_guard lock(list_mutex);
  if (first == nullptr) return;
  const auto filtered = are_calls_filtered();
  if (!filtered) waiting.store(false);  // for the next that waits
  if (filtered.value_or(true)) return;
  for (const auto* thread = first; thread != nullptr; thread = thread->next_) {
    set_policy(thread->id_, SCHED_OTHER);
  }
}

}  // namespace sqlstream
