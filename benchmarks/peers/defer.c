/*
 * The benchmark model `defer`, searched breadth first by a program written for this one model: the limit to beat.
 *
 *     cc -O2 -o defer defer.c
 *     ./defer N P K [locked|late|noack]
 *
 * Prints one line of JSON. A state is packed into two words, a step edits a copy of it, and the visited states are in
 * an open-addressing hash table. No parents are kept: a counterexample is known by its length, the shortest there is.
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_CPUS = 8, MAX_PAGES = 4, MAX_ITERATIONS = 100, WORDS = 2, WORD_BITS = 64 };
enum { RW = 2, ACCESSED = 4, DIRTY = 8, ENTRY_START = 15 };
typedef enum { LOCKED, LATE, NOACK, VARIANTS } Variant;
typedef enum { CLEANER, WRITER, READER, ROLES } Role;

/* Positions inside an operation. What the cleaner read is remembered as its position. The sends come last because
   there are as many of them as other CPUs. */
enum { C_LOCK, C_READ, C_UNLOCK_CLEAN, C_CLEAR, C_QUEUE, C_UNLOCK_LATE, C_DRAIN, C_INVLPG, C_WAIT, C_UNLOCK,
       C_WRITEBACK, C_SEND };
enum { R_LOCK, R_READ, R_TOGGLE, R_UPDATE, R_UNLOCK };

static const char IN_SYNC[] = "shadow_equals_primary_under_lock";
static const char NO_LOST_WRITE[] = "no_lost_write";
static const char NO_DEADLOCK[] = "no_deadlock";

typedef struct { uint64_t word[WORDS]; } State;
typedef struct { uint64_t mask; unsigned word, shift; } Field;

typedef struct {
	unsigned cpus, pages, operations, bits_taken;
	Variant variant;
	Role role[MAX_CPUS];
	State initial;
	/* `used`, the lowest bit, is 1 in every state, so that a zero in the table is an empty slot. */
	Field used, ptl, primary[MAX_PAGES], shadow[MAX_PAGES], content[MAX_PAGES], disk[MAX_PAGES];
	/* `tlb` and `queue` have a bit for each page; `mail` holds all mailboxes of one sender, a bit for each receiver
	   and page. Only cleaners queue and send; a field that a CPU lacks has no bits and reads as 0. */
	Field position[MAX_CPUS], done[MAX_CPUS], tlb[MAX_CPUS], queue[MAX_CPUS], mail[MAX_CPUS];
} Model;

static void die(const char *message) {
	fprintf(stderr, "defer: %s\n", message);
	exit(2);
}

static inline uint64_t get(const State *s, Field f) { return s->word[f.word] >> f.shift & f.mask; }
static inline void set_bits(State *s, Field f, uint64_t bits) { s->word[f.word] |= bits << f.shift; }
static inline void clear_bits(State *s, Field f, uint64_t bits) { s->word[f.word] &= ~(bits << f.shift); }
static inline void put(State *s, Field f, uint64_t value) { clear_bits(s, f, f.mask); set_bits(s, f, value); }

/* A field has the bits for values up to `largest` and lies within one word. */
static Field add_field(Model *m, uint64_t largest, uint64_t start) {
	unsigned bits = 0, room = WORD_BITS - m->bits_taken % WORD_BITS;
	while (largest >> bits)
		bits++;
	if (bits > room)
		m->bits_taken += room;
	Field f = {(UINT64_C(1) << bits) - 1, m->bits_taken / WORD_BITS, m->bits_taken % WORD_BITS};
	m->bits_taken += bits;
	if (m->bits_taken > WORDS * WORD_BITS)
		die("a state of these sizes does not fit into 128 bits");
	put(&m->initial, f, start);
	return f;
}

static void build(Model *m) {
	unsigned all_pages = (1u << m->pages) - 1, largest_content = 1;
	m->used = add_field(m, 1, 1);
	m->ptl = add_field(m, 1, 0);
	for (unsigned cpu = 0; cpu < m->cpus; cpu++) {
		m->role[cpu] = m->cpus == 2 && cpu == 1 ? READER : (Role)(cpu % ROLES);
		m->done[cpu] = add_field(m, m->operations, 0);
		m->tlb[cpu] = add_field(m, all_pages, 0);
		if (m->role[cpu] == WRITER)
			largest_content += m->operations / m->pages;
		if (m->role[cpu] == READER)
			m->position[cpu] = add_field(m, R_UNLOCK, 0);
		if (m->role[cpu] == CLEANER) {
			m->position[cpu] = add_field(m, C_SEND + m->cpus - 2, 0);
			m->queue[cpu] = add_field(m, all_pages, 0);
			m->mail[cpu] = add_field(m, (UINT64_C(1) << m->cpus * m->pages) - 1, 0);
		}
	}
	for (unsigned page = 0; page < m->pages; page++) {
		m->primary[page] = add_field(m, ENTRY_START, ENTRY_START);
		m->shadow[page] = add_field(m, ENTRY_START, ENTRY_START);
		m->content[page] = add_field(m, largest_content, 1);
		m->disk[page] = add_field(m, largest_content, 0);
	}
}

/* The steps. Each edits `s` and returns whether it could be taken; a failed assertion goes to `violated`. */
static bool lock(const Model *m, State *s, const char **violated) {
	if (get(s, m->ptl))
		return false;
	put(s, m->ptl, 1);
	for (unsigned page = 0; page < m->pages; page++)
		if (get(s, m->shadow[page]) != get(s, m->primary[page]))
			*violated = IN_SYNC;
	return true;
}

static void next_operation(const Model *m, unsigned cpu, State *s) {
	put(s, m->position[cpu], 0);
	put(s, m->done[cpu], get(s, m->done[cpu]) + 1);
}

static bool cleaner_step(const Model *m, unsigned cpu, unsigned page, State *s, const char **violated) {
	unsigned position = (unsigned)get(s, m->position[cpu]), next = position + 1, sent;
	uint64_t bit = 1u << page;
	switch (position) {
	case C_LOCK: if (!lock(m, s, violated)) return false; break;
	case C_READ: next = get(s, m->primary[page]) & DIRTY ? C_CLEAR : C_UNLOCK_CLEAN; break;
	case C_UNLOCK_CLEAN: put(s, m->ptl, 0); next_operation(m, cpu, s); return true;
	case C_CLEAR: clear_bits(s, m->primary[page], DIRTY); break;
	case C_QUEUE: set_bits(s, m->queue[cpu], bit); next = m->variant == LATE ? C_UNLOCK_LATE : C_DRAIN; break;
	case C_UNLOCK_LATE: put(s, m->ptl, 0); break;
	case C_DRAIN: put(s, m->shadow[page], get(s, m->primary[page])); clear_bits(s, m->queue[cpu], bit); break;
	case C_INVLPG: clear_bits(s, m->tlb[cpu], bit); next = C_SEND; break;
	case C_WAIT: if (get(s, m->mail[cpu])) return false; next = m->variant == LATE ? C_WRITEBACK : C_UNLOCK; break;
	case C_UNLOCK: put(s, m->ptl, 0); break;
	case C_WRITEBACK: put(s, m->disk[page], get(s, m->content[page])); next_operation(m, cpu, s); return true;
	default: sent = position - C_SEND; /* To the other CPUs in ascending order. */
		set_bits(s, m->mail[cpu], bit << (sent + (sent >= cpu)) * m->pages);
		if (sent == m->cpus - 2)
			next = m->variant == NOACK ? C_UNLOCK : C_WAIT;
	}
	put(s, m->position[cpu], next);
	return true;
}

static bool writer_step(const Model *m, unsigned cpu, unsigned page, State *s) {
	bool dirty = get(s, m->tlb[cpu]) >> page & 1;
	if (!dirty && get(s, m->shadow[page]) & RW) {
		set_bits(s, m->shadow[page], DIRTY | ACCESSED);
		set_bits(s, m->primary[page], DIRTY | ACCESSED);
		set_bits(s, m->tlb[cpu], 1u << page);
		return true;
	}
	put(s, m->content[page], get(s, m->content[page]) + dirty);
	next_operation(m, cpu, s);
	return true;
}

static bool reader_step(const Model *m, unsigned cpu, unsigned page, State *s, const char **violated) {
	unsigned position = (unsigned)get(s, m->position[cpu]);
	put(s, m->position[cpu], position + 1);
	switch (position) {
	case R_LOCK: return lock(m, s, violated);
	case R_READ: if (get(s, m->shadow[page]) != get(s, m->primary[page])) *violated = IN_SYNC; return true;
	case R_TOGGLE: put(s, m->primary[page], get(s, m->primary[page]) ^ RW); return true;
	case R_UPDATE: put(s, m->shadow[page], get(s, m->primary[page])); return true;
	default: put(s, m->ptl, 0); next_operation(m, cpu, s); return true;
	}
}

static bool cpu_step(const Model *m, unsigned cpu, State *s, const char **violated) {
	unsigned done = (unsigned)get(s, m->done[cpu]), page = done % m->pages;
	if (done == m->operations)
		return false;
	if (m->role[cpu] == WRITER)
		return writer_step(m, cpu, page, s);
	return m->role[cpu] == CLEANER ? cleaner_step(m, cpu, page, s, violated) : reader_step(m, cpu, page, s, violated);
}

/* An interrupt may land whatever its CPU is doing, so it looks at the mailbox and never at the position. */
static bool interrupt(const Model *m, unsigned sender, unsigned cpu, State *s) {
	unsigned shift = cpu * m->pages;
	uint64_t pages = get(s, m->mail[sender]) >> shift & ((1u << m->pages) - 1);
	clear_bits(s, m->tlb[cpu], pages);
	clear_bits(s, m->mail[sender], pages << shift);
	return pages != 0;
}

static bool quiet(const Model *m, const State *s) {
	for (unsigned cpu = 0; cpu < m->cpus; cpu++)
		if (get(s, m->done[cpu]) < m->operations || get(s, m->mail[cpu]))
			return false;
	return true;
}

/* The search. */
typedef struct { State *state; size_t size, used; } Store;
typedef struct { size_t transitions, depth; const char *violated; Store visited, level[2]; } Search;

static Store allocate(size_t size) {
	Store store = {calloc(size, sizeof(State)), size, 0};
	if (!store.state)
		die("out of memory");
	return store;
}

/* The slot that holds `s`, or the empty one where it belongs. */
static State *slot_of(const Store *t, State s) {
	uint64_t hash = s.word[0] * UINT64_C(0x9e3779b97f4a7c15) ^ s.word[1];
	hash = (hash ^ hash >> 32) * UINT64_C(0xd6e8feb86659fd93);
	size_t i = (size_t)(hash ^ hash >> 32) & (t->size - 1);
	while (t->state[i].word[0] && memcmp(&t->state[i], &s, sizeof s))
		i = (i + 1) & (t->size - 1);
	return &t->state[i];
}

static void double_table(Store *t) {
	Store larger = allocate(t->size * 2);
	larger.used = t->used;
	for (size_t i = 0; i < t->size; i++)
		if (t->state[i].word[0])
			*slot_of(&larger, t->state[i]) = t->state[i];
	free(t->state);
	*t = larger;
}

static void push(Store *level, State s) {
	if (level->used == level->size) {
		level->size *= 2;
		level->state = realloc(level->state, level->size * sizeof(State));
	}
	if (!level->state)
		die("out of memory");
	level->state[level->used++] = s;
}

static void arrive(const Model *m, Search *search, State s) {
	search->transitions++;
	State *slot = slot_of(&search->visited, s);
	if (slot->word[0])
		return;
	*slot = s;
	if (++search->visited.used > search->visited.size / 4 * 3)
		double_table(&search->visited);
	push(&search->level[~search->depth & 1], s);
	bool lost = false;
	for (unsigned page = 0; page < m->pages; page++)
		lost |= get(&s, m->content[page]) != get(&s, m->disk[page]) && !(get(&s, m->primary[page]) & DIRTY);
	if (lost && quiet(m, &s))
		search->violated = NO_LOST_WRITE;
}

static void expand(const Model *m, Search *search, const State *s) {
	size_t before = search->transitions;
	for (unsigned cpu = 0; cpu < m->cpus && !search->violated; cpu++) {
		State after = *s;
		if (cpu_step(m, cpu, &after, &search->violated))
			arrive(m, search, after);
		for (unsigned sender = 0; sender < m->cpus && !search->violated; sender++)
			if (after = *s, interrupt(m, sender, cpu, &after))
				arrive(m, search, after);
	}
	if (search->transitions == before && !quiet(m, s))
		search->violated = NO_DEADLOCK;
}

/* The level being expanded and the next one change places with every step in depth. */
static void search_all(const Model *m, Search *search) {
	*search = (Search){.visited = allocate(1 << 16), .level = {allocate(1 << 10), allocate(1 << 10)}};
	*slot_of(&search->visited, m->initial) = m->initial;
	search->visited.used = 1;
	push(&search->level[0], m->initial);
	for (;; search->depth++) {
		Store *now = &search->level[search->depth & 1], *next = &search->level[~search->depth & 1];
		next->used = 0;
		for (size_t i = 0; i < now->used && !search->violated; i++)
			expand(m, search, &now->state[i]);
		if (search->violated || !next->used)
			return;
	}
}

int main(int argc, char **argv) {
	static const char *const names[VARIANTS] = {"locked", "late", "noack"};
	static Model m;
	static Search search;
	struct timespec start, end;
	unsigned iterations = 0;
	while (argc == 5 && m.variant < VARIANTS && strcmp(argv[4], names[m.variant]))
		m.variant++;
	if (argc < 4 || argc > 5 || m.variant == VARIANTS ||
	    sscanf(argv[1], "%u", &m.cpus) != 1 || m.cpus < 2 || m.cpus > MAX_CPUS ||
	    sscanf(argv[2], "%u", &m.pages) != 1 || m.pages < 1 || m.pages > MAX_PAGES ||
	    sscanf(argv[3], "%u", &iterations) != 1 || iterations < 1 || iterations > MAX_ITERATIONS)
		die("usage: defer N P K [locked|late|noack], with N 2 to 8, P 1 to 4, K 1 to 100");
	m.operations = iterations * m.pages;
	build(&m);
	timespec_get(&start, TIME_UTC);
	search_all(&m, &search);
	timespec_get(&end, TIME_UTC);
	printf("{\"states\": %zu, \"transitions\": %zu, \"depth\": %zu, \"verdict\": \"%s\", ", search.visited.used,
	       search.transitions, search.depth + (search.violated == NO_LOST_WRITE), search.violated ? "violated" : "holds");
	if (search.violated)
		printf("\"property\": \"%s\", \"trace_length\": %zu, ", search.violated,
		       search.depth + (search.violated != NO_DEADLOCK));
	printf("\"seconds\": %.6f}\n", (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9);
}
