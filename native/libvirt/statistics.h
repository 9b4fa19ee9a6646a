// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <libvirt/libvirt.h>

#include "arguments.h"

namespace vesper::libvirt {

// Which statistics: of which groups, and whether a domain that is busy may be waited for.
struct StatisticsRequest {
  explicit StatisticsRequest(const Options& options);
  unsigned groups;
  unsigned flags;
};

// Statistics as libvirt returned them, which are freed with this.
class StatisticsRecords {
 public:
  StatisticsRecords(virDomainStatsRecordPtr* records, int count) : records_(records), count_(count) {}
  ~StatisticsRecords() { virDomainStatsRecordListFree(records_); }
  StatisticsRecords(const StatisticsRecords&) = delete;
  StatisticsRecords& operator=(const StatisticsRecords&) = delete;

  virDomainStatsRecordPtr* begin() const { return records_; }
  virDomainStatsRecordPtr* end() const { return records_ + count_; }

 private:
  virDomainStatsRecordPtr* records_;
  int count_;
};

}  // namespace vesper::libvirt
