// SPDX-License-Identifier: Apache-2.0
#include "statistics.h"

namespace vesper::libvirt {

StatisticsRequest::StatisticsRequest(const Options& options)
    : groups(options.words("groups",
                           {
                               {"state", VIR_DOMAIN_STATS_STATE},
                               {"cpu", VIR_DOMAIN_STATS_CPU_TOTAL},
                               {"balloon", VIR_DOMAIN_STATS_BALLOON},
                               {"vcpu", VIR_DOMAIN_STATS_VCPU},
                               {"interface", VIR_DOMAIN_STATS_INTERFACE},
                               {"block", VIR_DOMAIN_STATS_BLOCK},
                               {"perf", VIR_DOMAIN_STATS_PERF},
                               {"iothread", VIR_DOMAIN_STATS_IOTHREAD},
                               {"memory", VIR_DOMAIN_STATS_MEMORY},
                               {"dirtyrate", VIR_DOMAIN_STATS_DIRTYRATE},
                               {"vm", VIR_DOMAIN_STATS_VM},
                           })),
      flags(options.flags({
          {"noWait", VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT},
          {"enforce", VIR_CONNECT_GET_ALL_DOMAINS_STATS_ENFORCE_STATS},
          {"backing", VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING},
      })) {}

}  // namespace vesper::libvirt
