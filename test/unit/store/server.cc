#include "test/unit/store/server.h"

#include <arpa/inet.h>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <iostream>
#include <netinet/in.h>
#include <spawn.h>
#include <stdexcept>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "base/unique_fd.h"

namespace fs = std::filesystem;

namespace sqlstream::test {
namespace {

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

pid_t start(const std::vector<std::string>& arguments, const std::vector<std::string>& environment,
            const fs::path& log) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  std::vector<char*> envp;
  for (const std::string& variable : environment)
    envp.push_back(const_cast<char*>(variable.c_str()));
  for (char** inherited = environ; *inherited; ++inherited) envp.push_back(*inherited);
  envp.push_back(nullptr);
  const std::string log_name = log.string();
  const pid_t pid = ::fork();
  if (pid < 0) throw std::runtime_error("fork");
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int fd = ::open(log_name.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    ::dup2(fd, 1);
    ::dup2(fd, 2);
    ::execvpe(argv[0], argv.data(), envp.data());
    ::_exit(127);
  }
  return pid;
}

bool listens(int port) {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = loopback(port);
  return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

}  // namespace

TempFolder::TempFolder() {
  std::string name = (fs::temp_directory_path() / "sqlstream-test-XXXXXX").string();
  if (!::mkdtemp(name.data())) throw std::runtime_error("mkdtemp");
  path = name;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  fs::permissions(path, fs::perms::owner_all, ignored);
  fs::remove_all(path, ignored);
}

int free_port() {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = loopback(0);
  socklen_t size = sizeof address;
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0 ||
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0)
    throw std::runtime_error("no free port");
  return ntohs(address.sin_port);
}

Process::Process(const std::vector<std::string>& arguments,
                 const std::vector<std::string>& environment, const fs::path& log)
    : pid_(start(arguments, environment, log)) {}

Process::~Process() {
  stop();
}

bool Process::running() {
  if (pid_ > 0 && ::waitpid(pid_, nullptr, WNOHANG) == pid_) pid_ = 0;
  return pid_ > 0;
}

void Process::stop() {
  if (!running()) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = 0;
}

void run_program(const std::vector<std::string>& arguments) {
  int status = 0;
  ::waitpid(start(arguments, {}, "/dev/null"), &status, 0);
  if (status != 0) throw std::runtime_error(arguments[0] + " failed");
}

std::string find_minio() {
  if (const char* folder = std::getenv("SQLSTREAM_TEST_BIN")) {
    const fs::path file = fs::path(folder) / "minio";
    if (fs::exists(file)) return file.string();
  }
  const char* home = std::getenv("HOME");
  const fs::path file = fs::path(home ? home : "/") / ".cache/sqlstream-test/bin/minio";
  return fs::exists(file) ? file.string() : std::string();
}

Minio::Minio(bool tls) : tls_(tls), port_(0) {
  fs::create_directories(folder_.path / "certs");
  fs::create_directories(folder_.path / "data");
  if (tls) {
    run_program({"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                 "/CN=sqlstream-test", "-addext",
                 "subjectAltName=IP:127.0.0.1,DNS:s3.localhost,DNS:*.s3.localhost", "-keyout",
                 (folder_.path / "certs/private.key").string(), "-out", ca_file()});
  }
  // Another process may take the port first.
  for (int attempt = 0; attempt < 5; ++attempt) {
    port_ = free_port();
    process_ = std::make_unique<Process>(
        std::vector<std::string>{
            find_minio(), "server", "--quiet", "--certs-dir", (folder_.path / "certs").string(),
            "--address", "127.0.0.1:" + std::to_string(port_), (folder_.path / "data").string()},
        std::vector<std::string>{std::string("MINIO_ROOT_USER=") + kUser,
                                 std::string("MINIO_ROOT_PASSWORD=") + kPassword,
                                 "MINIO_DOMAIN=s3.localhost", "MINIO_UPDATE=off",
                                 "MINIO_BROWSER=off"},
        folder_.path / "log");
    while (process_->running()) {
      if (listens(port_)) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  std::ifstream log(folder_.path / "log");
  std::cerr << log.rdbuf();
  throw std::runtime_error("MinIO does not start");
}

std::string Minio::endpoint() const {
  return (tls_ ? "https://127.0.0.1:" : "http://127.0.0.1:") + std::to_string(port_);
}

void Minio::make_bucket(const std::string& name) {
  fs::create_directories(folder_.path / "data" / name);
}

}  // namespace sqlstream::test
