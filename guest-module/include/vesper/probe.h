/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a probe sees of the frontend: describe events, fields and probe points; register; reserve and commit records.
 *
 * A probe is one C file:
 *
 *	#define DIED_FIELDS(F, E)                                                     \
 *		F(E, u32,  pid,  ,     PID,  NONE, "",       "process that died")     \
 *		F(E, s32,  sig,  ,     LABEL, NONE, "signal", "signal it died of")    \
 *		F(E, char, comm, [16], COMM, NONE, "",       "name of its main thread")
 *	VESPER_EVENT(died, 1, CRITICAL, DIED_FIELDS, "A process died of a signal.");
 *	VESPER_VALUE(signal, ENUM, SIGKILL, "SIGKILL");
 *
 *	VESPER_KPROBE(exit_point, "do_exit", on_exit, true, "end of a task");
 *	static int on_exit(struct kprobe *kprobe, struct pt_regs *regs)
 *	{
 *		struct vesper_write write;
 *		struct died *event;
 *
 *		if (!vesper_enter(&exit_point))
 *			return 0;
 *		event = died_reserve(&write);
 *		if (!event)
 *			return 0;
 *		event->pid = current->tgid;
 *		…
 *		vesper_commit(&write);
 *		return 0;
 *	}
 *
 *	VESPER_PROBE(signal, "Signals and the deaths they cause.", self_test, &exit_point);
 *
 * From an event's list of fields come the C struct (struct died), its descriptors and died_reserve(). docs/probes.md is the guide.
 */
#ifndef _VESPER_PROBE_H
#define _VESPER_PROBE_H

#include <linux/compiler.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/string.h>
#include <linux/tracepoint.h>
#include <linux/types.h>
#include <vesper/wire.h>

struct vesper_probe;
struct vesper_ring;

/* One probe point. The frontend arms and disarms it; the handler belongs to the probe. */
struct vesper_point {
	const char *name;
	u32 kind;		/* enum vesper_point_kind */
	bool required;
	bool sleepable;		/* see VESPER_KPROBE_SLEEPABLE */
	union {
		struct kprobe kprobe;
		struct kretprobe kretprobe;
		struct {
			struct tracepoint *tracepoint;	/* found by name when armed */
			struct module *module;		/* whose tracepoint it is, NULL: the kernel's; held while armed */
			void *handler;			/* first argument: the struct vesper_point */
		} trace;
		struct {
			int (*arm)(struct vesper_point *point);
			void (*disarm)(struct vesper_point *point);
		} notifier;
	};
	/* Set by the frontend. */
	unsigned long address;	/* of a kprobe's function where it is armed through ftrace, else 0 */
	struct hlist_node node;
	struct vesper_probe *probe;
	int error;		/* 0: armed; -ENODATA: not tried; else why it did not arm */
	u64 __percpu *hits;
};

/* A probe. All pointers stay valid until vesper_probe_unregister() returned. */
struct vesper_probe {
	const char *name;
	struct module *owner;
	struct vesper_point **points;
	unsigned int point_count;
	/*
	 * Makes every armed point that can be made to fire do so once, in process context of a kernel thread; the frontend
	 * compares hits before and after. Optional. 0 or negative errno.
	 */
	int (*self_test)(struct vesper_probe *probe);
	/* Set by the frontend. */
	bool armed;
	u16 slot;
	u64 __percpu *written;
	u64 __percpu *lost;
};

/*
 * An open record between reserve and commit; lives on the stack, preemption is off meanwhile. No larger than five words: kernels
 * that zero all local variables would spend more on it than on the record.
 */
struct vesper_write {
	struct vesper_record *record;
	struct vesper_ring *ring;
	u64 state;
	u64 sequence;
	u32 tag;
};

#include <vesper/ring.h>

/*
 * Called from the probe's init and exit functions. Register arms the points: a point that cannot be armed is reported, and
 * fails the registration only when it is required (its error is returned). -EPERM where the module was not pushed by VESPER.
 */
int vesper_probe_register(struct vesper_probe *probe);
void vesper_probe_unregister(struct vesper_probe *probe);

/*
 * Reserve a record with `bytes` of payload in the ring of this CPU: its payload, zeroed, or NULL where it is lost (ring full, no
 * relay), which is counted, or not wanted (probe disarmed). After a non-NULL return vesper_commit() must follow, with no sleep in
 * between. Any context, NMI included.
 */
static __always_inline void *vesper_reserve(struct vesper_probe *probe, u16 event, u32 ring_kind, u32 bytes,
					    struct vesper_write *write)
{
	void *payload = __vesper_reserve(probe, event, ring_kind, bytes, write);

	if (likely(payload))
		memset(payload, 0, bytes);
	return payload;
}

static __always_inline void vesper_commit(struct vesper_write *write)
{
	__vesper_commit(write);
}

/* First line of every handler: counts the hit, and says whether the probe is armed. */
static __always_inline bool vesper_enter(struct vesper_point *point)
{
	if (!READ_ONCE(point->probe->armed))
		return false;
	this_cpu_inc(*point->hits);
	return true;
}

/* How often the handler of a point ran since it was armed. For self-tests: not for handlers. */
static inline u64 vesper_hits(const struct vesper_point *point)
{
	u64 hits = 0;
	int cpu;

	if (point->hits)
		for_each_possible_cpu(cpu)
			hits += READ_ONCE(*per_cpu_ptr(point->hits, cpu));
	return hits;
}

/* gcc would turn the order of the descriptors round; the order of a set's values says which name is preferred. */
#if __has_attribute(__no_reorder__)
#define VESPER_IN_ORDER __attribute__((__no_reorder__))
#else
#define VESPER_IN_ORDER
#endif
#define VESPER_DESCRIPTOR(_section) __used __section(_section) __aligned(8) VESPER_IN_ORDER

#define VESPER_MEMBER(_event, _type, _name, _dim, _role, _unit, _values, _doc) _type _name _dim;

#define VESPER_TYPE_OF(_type) \
	_Generic((_type)0, u8 : VESPER_TYPE_U8, u16 : VESPER_TYPE_U16, u32 : VESPER_TYPE_U32, u64 : VESPER_TYPE_U64, \
		 s8 : VESPER_TYPE_S8, s16 : VESPER_TYPE_S16, s32 : VESPER_TYPE_S32, s64 : VESPER_TYPE_S64, \
		 char : VESPER_TYPE_TEXT)

#define VESPER_FIELD_ENTRY(_event, _type, _name, _dim, _role, _unit, _values, _doc) \
	{ \
		.event = __vesper_id_##_event, \
		.offset = offsetof(struct _event, _name), \
		.size = sizeof(((struct _event *)0)->_name), \
		.type = VESPER_TYPE_OF(_type), \
		.role = VESPER_ROLE_##_role, \
		.unit = VESPER_UNIT_##_unit, \
		.name = #_name, \
		.values = _values, \
		.doc = _doc, \
	},

/*
 * VESPER_EVENT(name, id, severity, FIELDS, doc): struct name, its descriptors, and
 * struct name *name_reserve(struct vesper_write *write). Critical events go into the ring of their own.
 */
#define VESPER_EVENT(_event, _id, _severity, _FIELDS, _doc) \
	enum { __vesper_id_##_event = (_id) }; \
	struct _event { \
		_FIELDS(VESPER_MEMBER, _event) \
	} __aligned(8); \
	static_assert(sizeof(struct _event) + sizeof(struct vesper_record) <= VESPER_RECORD_MAX); \
	static const struct vesper_event_desc __vesper_event_##_event VESPER_DESCRIPTOR(VESPER_SECTION_EVENTS) = { \
		.id = (_id), \
		.severity = VESPER_SEVERITY_##_severity, \
		.payload_bytes = sizeof(struct _event), \
		.name = #_event, \
		.doc = _doc, \
	}; \
	static const struct vesper_field_desc __vesper_fields_##_event[] VESPER_DESCRIPTOR(VESPER_SECTION_FIELDS) = { \
		_FIELDS(VESPER_FIELD_ENTRY, _event) \
	}; \
	static __always_inline struct _event *_event##_reserve(struct vesper_write *write) \
	{ \
		return vesper_reserve(&vesper_this_probe, (_id), \
				      VESPER_SEVERITY_##_severity == VESPER_SEVERITY_CRITICAL ? \
					      VESPER_RING_CRITICAL : \
					      VESPER_RING_OTHER, \
				      sizeof(struct _event), write); \
	} \
	static_assert((_id) > 0 && (_id) <= 0xffff)

/* VESPER_VALUE(set, ENUM|FLAG, value, "name"): one name of a value, for fields that name the set. */
#define VESPER_VALUE(_set, _kind, _value, _name) VESPER_VALUE_AT(_set, _kind, _value, _name, __COUNTER__)
#define VESPER_VALUE_AT(_set, _kind, _value, _name, _at) VESPER_VALUE_DEFINE(_set, _kind, _value, _name, _at)
#define VESPER_VALUE_DEFINE(_set, _kind, _value, _name, _at) \
	static const struct vesper_value_desc __vesper_value_##_at VESPER_DESCRIPTOR(VESPER_SECTION_VALUES) = { \
		.value = (_value), \
		.kind = VESPER_VALUE_##_kind, \
		.set = #_set, \
		.name = _name, \
	}

#define VESPER_POINT_DESC(_point, _kind, _name, _required, _doc) \
	static const struct vesper_point_desc __vesper_point_##_point VESPER_DESCRIPTOR(VESPER_SECTION_POINTS) = { \
		.kind = (_kind), \
		.required = (_required), \
		.name = _name, \
		.doc = _doc, \
	}

/*
 * handler: int (*)(struct kprobe *, struct pt_regs *), returns 0; declared here, defined below, so that it can name its point. Of
 * the registers only those that hold the function's arguments can be relied on (regs_get_kernel_argument()): where it can, the
 * frontend calls the handler through ftrace, at half the cost.
 */
#define VESPER_KPROBE(_point, _symbol, _handler, _required, _doc) \
	VESPER_KPROBE_POINT(_point, _symbol, _handler, _required, false, _doc)

/*
 * For a function that is only entered where a task may sleep, and that keeps its CPU for long. The handler may not sleep; but where it
 * rang for the host and the doorbell is a frame, the thread that sends it runs before the function does.
 */
#define VESPER_KPROBE_SLEEPABLE(_point, _symbol, _handler, _required, _doc) \
	VESPER_KPROBE_POINT(_point, _symbol, _handler, _required, true, _doc)

#define VESPER_KPROBE_POINT(_point, _symbol, _handler, _required, _sleepable, _doc) \
	static int _handler(struct kprobe *, struct pt_regs *); \
	VESPER_POINT_DESC(_point, VESPER_POINT_KPROBE, _symbol, _required, _doc); \
	static struct vesper_point _point = { \
		.name = _symbol, \
		.kind = VESPER_POINT_KPROBE, \
		.required = (_required), \
		.sleepable = (_sleepable), \
		.kprobe = { .symbol_name = _symbol, .pre_handler = (_handler) }, \
	}

/* handlers: int (*)(struct kretprobe_instance *, struct pt_regs *), return 0; entry and data_bytes may be 0. The handler is
 * declared here, an entry handler has to be before.
 */
#define VESPER_KRETPROBE(_point, _symbol, _entry, _handler, _data_bytes, _required, _doc) \
	static int _handler(struct kretprobe_instance *, struct pt_regs *); \
	VESPER_POINT_DESC(_point, VESPER_POINT_KRETPROBE, _symbol, _required, _doc); \
	static struct vesper_point _point = { \
		.name = _symbol, \
		.kind = VESPER_POINT_KRETPROBE, \
		.required = (_required), \
		.kretprobe = { .kp.symbol_name = _symbol, .entry_handler = (_entry), .handler = (_handler), \
			       .data_size = (_data_bytes), .maxactive = 64 }, \
	}

/* handler: void (*)(void *point, <arguments of the tracepoint>) */
#define VESPER_TRACEPOINT(_point, _name, _handler, _required, _doc) \
	VESPER_POINT_DESC(_point, VESPER_POINT_TRACEPOINT, _name, _required, _doc); \
	static struct vesper_point _point = { \
		.name = _name, \
		.kind = VESPER_POINT_TRACEPOINT, \
		.required = (_required), \
		.trace = { .handler = (_handler) }, \
	}

#define VESPER_NOTIFIER(_point, _name, _arm, _disarm, _required, _doc) \
	VESPER_POINT_DESC(_point, VESPER_POINT_NOTIFIER, _name, _required, _doc); \
	static struct vesper_point _point = { \
		.name = _name, \
		.kind = VESPER_POINT_NOTIFIER, \
		.required = (_required), \
		.notifier = { .arm = (_arm), .disarm = (_disarm) }, \
	}

/* Declared here so that event macros can refer to it; defined by VESPER_PROBE. */
static struct vesper_probe vesper_this_probe __maybe_unused;

/*
 * VESPER_PROBE(name, doc, self_test, &point, …): the probe with module_init and module_exit. self_test may be NULL. Last line of
 * the file. VESPER_PROBE_NO_INIT leaves module_init and module_exit to the probe (a failing init, tables to prepare).
 */
#define VESPER_PROBE_NO_INIT(_name, _doc, _self_test, ...) \
	static const struct vesper_probe_desc __vesper_probe_desc VESPER_DESCRIPTOR(VESPER_SECTION_PROBE) = { \
		.version = VESPER_DESCRIPTOR_VERSION, \
		.name = #_name, \
		.doc = _doc, \
	}; \
	static struct vesper_point *vesper_points[] = { __VA_ARGS__ }; \
	static struct vesper_probe vesper_this_probe = { \
		.name = #_name, \
		.owner = THIS_MODULE, \
		.points = vesper_points, \
		.point_count = ARRAY_SIZE(vesper_points), \
		.self_test = (_self_test), \
	}

#define VESPER_PROBE(_name, _doc, _self_test, ...) \
	VESPER_PROBE_NO_INIT(_name, _doc, _self_test, __VA_ARGS__); \
	static int __init vesper_probe_init(void) \
	{ \
		return vesper_probe_register(&vesper_this_probe); \
	} \
	static void __exit vesper_probe_exit(void) \
	{ \
		vesper_probe_unregister(&vesper_this_probe); \
	} \
	module_init(vesper_probe_init); \
	module_exit(vesper_probe_exit)

#endif
