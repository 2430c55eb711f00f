#pragma once

#include <exception>
#include <string>

#include "base/log.h"

namespace sqlstream {

/// For what the host calls: nothing of ours may reach it, which did not ask for it and cannot
/// handle it. An exception is logged, behind `what` was done.
template <class Call>
void guarded(const char* what, Call&& call) noexcept {
  try {
    call();
  } catch (const std::exception& e) {
    try {
      log::error(std::string(what) + ": " + e.what());
    } catch (...) {  // out of memory, again
    }
  }
}

}  // namespace sqlstream
