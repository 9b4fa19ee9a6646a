# SPDX-License-Identifier: Apache-2.0
# The front door. `make help` lists what there is.

SHELL := /bin/sh
.DELETE_ON_ERROR:
.SUFFIXES:

NODE := node_modules/node/bin/node
TSC := $(NODE) node_modules/typescript/bin/tsc
BIOME := node_modules/@biomejs/cli-linux-x64/biome
VITEST := $(NODE) node_modules/vitest/vitest.mjs --config test/vitest.config.ts
KERNEL := flock build/.kernels.lock $(NODE) host/kernel/main.ts

# What a fresh Debian 12 lacks. nodejs and npm only where there is none: any Node from 18 on can fetch the one we use.
PACKAGES := build-essential kmod xz-utils libelf1 sparse clang-format git ca-certificates \
	debian-archive-keyring util-linux e2fsprogs busybox-static qemu-system-x86 socat prometheus \
	libvirt-dev libvirt-daemon libvirt-daemon-driver-qemu mmdebstrap

# Tests start a Prometheus of their own: the server that its package starts is not wanted where the package was not there before.
PROMETHEUS_OFF := [ ! -d /run/systemd/system ] || $$root systemctl disable --now prometheus

# For the targets that call make again; under -j the jobs of the one above are shared.
JOBS = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))

HOST_SOURCES := $(shell find host -name '*.ts' 2>/dev/null)

.PHONY: all
all: build

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "  make %-12s %s\n", $$1, $$2 }'

.PHONY: setup
setup: ## install the Debian packages that are missing (as root, or through sudo)
	@missing=; for package in $(PACKAGES); do \
		dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	command -v npm >/dev/null || missing="$$missing npm"; \
	if [ -n "$$missing" ]; then \
		echo "installing:$$missing"; \
		root=; [ "$$(id -u)" = 0 ] || root=sudo; \
		export DEBIAN_FRONTEND=noninteractive; \
		$$root apt-get -q -o DPkg::Lock::Timeout=300 update || echo 'some package source cannot be reached; going on'; \
		$$root apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends $$missing; \
		case "$$missing " in *' prometheus '*) $(PROMETHEUS_OFF) ;; esac; \
	fi

.PHONY: build
build: dist/vesper native modules ## build all: the program, the native addons, the kernel modules

# --- the program -------------------------------------------------------------------------------------------------

# Of all packages only node has a script that we want, it fetches the binary; ssh2's compiles for the Node that npm runs in, not ours.
NPM_FLAGS := --ignore-scripts --no-audit --no-fund

# npm ci refuses where a registry lacks the optional packages of other platforms; npm install takes the lock's versions too.
node_modules/.package-lock.json: package.json package-lock.json
	@command -v npm >/dev/null || { echo 'npm is not installed; run: make setup'; exit 1; }
	npm ci $(NPM_FLAGS) || npm install --no-save $(NPM_FLAGS)
	npm rebuild node
	@touch $@

dist/.built: node_modules/.package-lock.json tsconfig.json $(HOST_SOURCES)
	$(TSC)
	@touch $@

# A small nursery: 10 MB less memory for the service, and events reach their handlers as fast. The others let an idle service sleep:
# without Maglev what runs once a second is not compiled anew for minutes (what runs a million times a second is compiled by TurboFan
# as before), V8 does not look every 8 s for memory to give back, which takes it minutes to give up, and has one thread to wake, not four.
NODE_FLAGS := --max-semi-space-size=2 --no-maglev --no-memory-reducer --v8-pool-size=1

dist/vesper: dist/.built Makefile
	@printf '%s\n' '#!/bin/sh' \
		'root=$$(dirname "$$(dirname "$$(readlink -f "$$0")")")' \
		'exec "$$root/node_modules/node/bin/node" $(NODE_FLAGS) "$$root/dist/main.js" "$$@"' > $@.new
	@chmod +x $@.new && mv $@.new $@

# --- the native addons -------------------------------------------------------------------------------------------

# One folder of native/ each. What an addon links with, and further flags of its own, go into LINK_<addon>.
ADDONS := relay socket vsock libvirt
# Their threads may outlive the environment that loaded them, or be in a call when it ends: they have to stay in memory.
LINK_vsock := -Wl,-z,nodelete
LINK_libvirt := -Wl,-z,nodelete -lvirt -lvirt-qemu

.PHONY: native
native: $(ADDONS:%=build/native/%.node) ## build the native addons

CXXFLAGS_NATIVE := -std=c++20 -O2 -g1 -fPIC -fvisibility=hidden -Wall -Wextra -Werror \
	-DNAPI_VERSION=9 -DNODE_ADDON_API_CPP_EXCEPTIONS -DNODE_ADDON_API_ENABLE_TYPE_CHECK_ON_AS \
	-DBUILDING_NODE_EXTENSION -DNODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS \
	-isystem node_modules/node-api-headers/include -isystem node_modules/node-addon-api

objects = $(patsubst native/%.cc,build/native/%.o,$(wildcard native/$(1)/*.cc))

build/native/%.o: native/%.cc node_modules/.package-lock.json Makefile
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS_NATIVE) -DNODE_GYP_MODULE_NAME=$(*D) -MMD -MP -c -o $@ $<

.SECONDEXPANSION:
$(ADDONS:%=build/native/%.node): build/native/%.node: $$(call objects,$$*)
	$(CXX) -shared -pthread -o $@.new $^ $(LINK_$*)
	@mv $@.new $@

-include $(foreach addon,$(ADDONS),$(patsubst %.o,%.d,$(call objects,$(addon))))

# --- the kernel modules ------------------------------------------------------------------------------------------

.PHONY: modules
modules: node_modules/.package-lock.json ## build the frontend and the probes for Debian's 6.1 and 6.12 kernels
	@mkdir -p build
	@$(KERNEL) build

.PHONY: package
package: build ## make Debian packages of the service and of the frontend (DKMS), in build/package
	$(NODE) host/package/main.ts

.PHONY: generate
generate: node_modules/.package-lock.json ## write the C header and the documentation of the wire format
	$(NODE) host/wire/generate.ts

# --- trying, testing ---------------------------------------------------------------------------------------------

.PHONY: demo
demo: ## set up, build, boot a guest and show everything on it
	@$(MAKE) --no-print-directory setup
	@$(MAKE) --no-print-directory $(JOBS) build
	@dist/vesper demo

.PHONY: check check-types check-lint check-format check-generated check-kernel
check: check-types check-lint check-format check-generated check-kernel ## types, lint, format, generated files, kernel modules under W=1 and sparse

check-types: node_modules/.package-lock.json
	$(TSC) --noEmit
	$(TSC) -p test

check-lint: node_modules/.package-lock.json
	$(BIOME) check --error-on-warnings

check-format:
	git ls-files 'native/*.cc' 'native/*.h' | xargs -r clang-format --dry-run -Werror

check-generated: node_modules/.package-lock.json
	$(NODE) host/wire/generate.ts --check

check-kernel: node_modules/.package-lock.json
	@mkdir -p build
	@$(KERNEL) check

.PHONY: test
test: ## set up, build, check, and run every test; the last line counts them
	@$(MAKE) --no-print-directory setup
	@$(MAKE) --no-print-directory $(JOBS) build $(TEST_PROGRAMS)
	@$(NODE) test/run.ts check unit integration

# What stands in for parts of a hypervisor.
TEST_PROGRAMS := build/test/vhost-user-vsock build/test/vsock-pump

build/test/%: test/harness/%.c Makefile
	@mkdir -p $(@D)
	$(CC) -O2 -g1 -Wall -Wextra -Werror -o $@ $<

# The part of the addon that needs no Node, to be run in a guest.
build/test/vsock-pump: test/harness/guest/vsock-pump.cc native/vsock/pump.cc native/vsock/pump.h Makefile
	@mkdir -p $(@D)
	$(CXX) -std=c++20 -O2 -g1 -Wall -Wextra -Werror -static -pthread -Inative/vsock -o $@ $(filter %.cc,$^)

.PHONY: unit
unit: native ## run the unit tests
	@$(NODE) test/run.ts unit

.PHONY: integration
integration: build $(TEST_PROGRAMS) ## run the tests that boot real guests
	@$(NODE) test/run.ts integration

.PHONY: test-nested
test-nested: build ## the real vhost_vsock, in a guest within a guest: takes minutes
	@$(NODE) test/nested.ts

.PHONY: bench
bench: build ## measure, and write the tables of docs/performance.md
	@$(NODE) test/bench.ts

.PHONY: evaluate
evaluate: build ## polling against VESPER on a cluster, twenty minutes; writes docs/evaluation.md (EVALUATE_ROUNDS=20)
	@$(NODE) test/evaluate.ts

.PHONY: fuzz
fuzz: build ## fuzz what reads bytes of a guest
	@$(NODE) test/run.ts fuzz

.PHONY: clean
clean: ## remove what was built; downloaded kernels and node_modules stay
	rm -rf build dist coverage
