// Boost.URL, compiled here once: Debian's static library is not position independent.
#include <boost/url/src.hpp>
