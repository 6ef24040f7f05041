// SPDX-License-Identifier: GPL-2.0-only
#include <pthread.h>
#include <stddef.h>
#include <string.h>

#include "slots.h"

#define MAX_SLOTS 64
#define LOW_LIMIT 0x100000ULL
#define LOW_COPY_MAX 0x20000ULL

static struct slots_region slots[MAX_SLOTS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void slots_remember(const struct slots_region *region)
{
	int i, empty = -1;

	pthread_mutex_lock(&lock);
	for (i = 0; i < MAX_SLOTS; i++) {
		if (slots[i].memory_size && slots[i].slot == region->slot)
			break;
		if (!slots[i].memory_size && empty < 0)
			empty = i;
	}
	if (i == MAX_SLOTS)
		i = empty;
	if (i >= 0)
		slots[i] = *region;
	pthread_mutex_unlock(&lock);
}

void *slots_shared_address(uint64_t gpa, uint64_t size)
{
	void *found = NULL;
	int i;

	pthread_mutex_lock(&lock);
	for (i = 0; i < MAX_SLOTS; i++) {
		const struct slots_region *s = &slots[i];

		if (s->memory_size && gpa >= s->guest_phys_addr &&
		    gpa + size <= s->guest_phys_addr + s->memory_size)
			found = (void *)(uintptr_t)(s->userspace_addr + gpa - s->guest_phys_addr);
	}
	pthread_mutex_unlock(&lock);
	return found;
}

int slots_copy_rom_low(const void *rom, uint64_t size)
{
	uint64_t part = size < LOW_COPY_MAX ? size : LOW_COPY_MAX;
	void *low = slots_shared_address(LOW_LIMIT - part, part);

	if (!low)
		return -1;
	memcpy(low, (const char *)rom + size - part, part);
	return 0;
}
