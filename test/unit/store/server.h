#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <sys/types.h>
#include <vector>

namespace sqlstream::test {

/// A folder of its own, removed at the end.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  std::filesystem::path path;
};

/// A TCP port on 127.0.0.1 that nobody listens on now.
int free_port();

/// A child process, killed by its id at the end, or with this process.
class Process {
 public:
  Process(const std::vector<std::string>& arguments, const std::vector<std::string>& environment,
          const std::filesystem::path& log);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  bool running();
  /// Ends it now.
  void stop();

 private:
  pid_t pid_;
};

/// Runs a program to its end; throws unless it succeeds.
void run_program(const std::vector<std::string>& arguments);

/// Where MinIO's binary is; empty when it is not here.
std::string find_minio();

/// A MinIO server with an empty data folder, ready when the constructor returns.
class Minio {
 public:
  explicit Minio(bool tls);
  std::string endpoint() const;
  std::string ca_file() const { return (folder_.path / "certs/public.crt").string(); }
  /// Buckets are folders of its data folder.
  void make_bucket(const std::string& name);
  void stop() { process_->stop(); }
  int port() const { return port_; }

  static constexpr const char* kUser = "test-user";
  static constexpr const char* kPassword = "test-password";

 private:
  TempFolder folder_;
  bool tls_;
  int port_;
  std::unique_ptr<Process> process_;
};

}  // namespace sqlstream::test
