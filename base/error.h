#pragma once

#include <cerrno>
#include <stdexcept>
#include <string>

namespace sqlstream {

/// A failure whose text is one clear sentence for the user: what is wrong, where, and what to do.
/// Never holds a secret. Thrown inside the library only; no exception crosses a C boundary.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& sentence) : std::runtime_error(sentence) {}
};

/// What to do about a call that failed so for want of a descriptor; `otherwise` about other errors.
inline std::string cure(int error, const char* otherwise) {
  return error == EMFILE || error == ENFILE ? "; raise the limit of open files (ulimit -n)"
                                            : otherwise;
}

}  // namespace sqlstream
