// SPDX-License-Identifier: GPL-2.0-only
/*
 * gmem_conv - lets user space of a guest convert, touch and verify exact pages.
 *
 * A region is an array of order-9 chunks of guest memory, addressed by page
 * number: page n lies in chunk n / 512.  A request is one line written to
 * /dev/gmem; its reply is one line read back from the same open file:
 *
 *	info
 *	alloc region=0 chunks=8
 *	free region=0
 *	where region=0
 *	convert region=0 start=0 count=512 to=private by=512
 *	touch region=0 start=0 count=512 stride=1 write=1 gen=3
 *	verify region=0 start=0 count=512 expect=pattern gen=3
 *	warm
 *
 * Replies start with "ok" or with "err code=WORD text=...".
 *
 * How a page is converted depends on the guest: with memory encryption
 * (SNP, TDX) by set_memory_decrypted()/set_memory_encrypted(); in a
 * software-protected guest, whose kernel is an ordinary one, by the hypercall
 * KVM_HC_MAP_GPA_RANGE itself.  One call covers at most "by" pages of one
 * chunk; the reply lists every call, so that it can be compared with what the
 * VMM did.  A call that is refused is the last one, and "refused=" has what it
 * returned.
 *
 * The pattern names its page: each 64-bit word holds tag, region, generation,
 * page and word number, so that a wrong page says whose contents it has.
 */
#include <linux/cc_platform.h>
#include <linux/fs.h>
#include <linux/kvm_para.h>
#include <linux/memblock.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/set_memory.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <uapi/linux/kvm_para.h>

#define CHUNK_ORDER 9
#define CHUNK_PAGES (1UL << CHUNK_ORDER)
#define MAX_REGIONS 4
#define MAX_CHUNKS 256
#define LINE_MAX_LEN 256
#define REPLY_MAX_LEN 131072
#define BAD_PAGES_SHOWN 4
#define WORDS_PER_PAGE (PAGE_SIZE / sizeof(u64))
/* Keeps a pattern from looking like zeroes or like small numbers. */
#define PATTERN_KEY 0x6d656d67c0debeadULL

#define HC_ENCRYPTED (1UL << 4)

static unsigned int tag;
module_param(tag, uint, 0444);
MODULE_PARM_DESC(tag, "number of this guest, part of every pattern");

static int use_hypercall = -1;
module_param(use_hypercall, int, 0444);
MODULE_PARM_DESC(use_hypercall, "1: convert by KVM_HC_MAP_GPA_RANGE, 0: by set_memory_*(), -1: as the platform says");

struct region {
	unsigned long chunks;
	struct page *chunk[MAX_CHUNKS];
};

struct request {
	char line[LINE_MAX_LEN];
	char *reply;
	size_t len;
};

static struct region regions[MAX_REGIONS];
static DEFINE_MUTEX(regions_lock);

static __printf(2, 3) void say(struct request *rq, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	rq->len += vscnprintf(rq->reply + rq->len, REPLY_MAX_LEN - rq->len, fmt, ap);
	va_end(ap);
}

static void refuse(struct request *rq, const char *code, const char *text)
{
	rq->len = 0;
	say(rq, "err code=%s text=%s", code, text);
}

/* The value of key in "verb key=value ..."; false when it is not there or no number. */
static bool number(const struct request *rq, const char *key, unsigned long *value)
{
	size_t len = strlen(key);
	const char *p = rq->line;
	char word[24];
	size_t n;

	while ((p = strchr(p, ' '))) {
		p++;
		if (strncmp(p, key, len) || p[len] != '=')
			continue;
		p += len + 1;
		n = strcspn(p, " \n");
		if (!n || n >= sizeof(word))
			return false;
		memcpy(word, p, n);
		word[n] = '\0';
		return kstrtoul(word, 0, value) == 0;
	}
	return false;
}

static bool word_is(const struct request *rq, const char *key, const char *expected)
{
	char needle[40];
	const char *p;
	int n = scnprintf(needle, sizeof(needle), " %s=%s", key, expected);

	p = strstr(rq->line, needle);
	return p && (p[n] == '\0' || p[n] == ' ' || p[n] == '\n');
}

static bool by_hypercall(void)
{
	if (use_hypercall >= 0)
		return use_hypercall;
	return !cc_platform_has(CC_ATTR_MEM_ENCRYPT);
}

static struct page *page_of(const struct region *r, unsigned long n)
{
	return r->chunk[n / CHUNK_PAGES] + n % CHUNK_PAGES;
}

static u64 pattern(unsigned long region, unsigned long gen, unsigned long page, unsigned long word)
{
	u64 v = ((u64)(tag & 0xf) << 60) | ((u64)(region & 0xf) << 56) |
		((u64)(gen & 0xffff) << 40) | ((u64)(page & 0xffffff) << 16) | (word & 0xffff);

	return v ^ PATTERN_KEY;
}

static bool range(struct request *rq, struct region **r, unsigned long *id,
		  unsigned long *start, unsigned long *count)
{
	if (!number(rq, "region", id) || *id >= MAX_REGIONS || !regions[*id].chunks) {
		refuse(rq, "region", "no such region");
		return false;
	}
	*r = &regions[*id];
	if (!number(rq, "start", start) || !number(rq, "count", count) || !*count ||
	    *start >= (*r)->chunks * CHUNK_PAGES ||
	    *count > (*r)->chunks * CHUNK_PAGES - *start) {
		refuse(rq, "range", "start and count do not lie in the region");
		return false;
	}
	return true;
}

static void do_info(struct request *rq)
{
	say(rq, "ok tag=%u chunk_pages=%lu how=%s encrypt=%d", tag, CHUNK_PAGES,
	    by_hypercall() ? "hypercall" : "set_memory", cc_platform_has(CC_ATTR_MEM_ENCRYPT));
}

static long convert_piece(struct page *page, unsigned long pages, bool private)
{
	unsigned long addr = (unsigned long)page_address(page);

	if (by_hypercall())
		return kvm_hypercall3(KVM_HC_MAP_GPA_RANGE, page_to_phys(page), pages,
				      private ? HC_ENCRYPTED : 0);
	return private ? set_memory_encrypted(addr, pages) : set_memory_decrypted(addr, pages);
}

/*
 * Pages go back to the guest's allocator as it gave them: shared where the
 * kernel is an ordinary one, encrypted where memory encryption is on.  What
 * cannot be converted back is kept out of its hands.
 */
static void free_region(struct region *r)
{
	while (r->chunks) {
		struct page *page = r->chunk[--r->chunks];

		if (convert_piece(page, CHUNK_PAGES, !by_hypercall()))
			pr_err("gmem_conv: chunk at %pa is not given back\n", &(phys_addr_t){ page_to_phys(page) });
		else
			__free_pages(page, CHUNK_ORDER);
	}
}

static void do_alloc(struct request *rq)
{
	unsigned long id, chunks;
	struct region *r;

	if (!number(rq, "region", &id) || id >= MAX_REGIONS || regions[id].chunks)
		return refuse(rq, "region", "region number is out of range or taken");
	if (!number(rq, "chunks", &chunks) || !chunks || chunks > MAX_CHUNKS)
		return refuse(rq, "chunks", "chunks is out of range");
	r = &regions[id];
	while (r->chunks < chunks) {
		struct page *page = alloc_pages(GFP_KERNEL | __GFP_NOWARN, CHUNK_ORDER);

		if (!page) {
			free_region(r);
			return refuse(rq, "nomem", "the guest has not that many free order-9 chunks");
		}
		r->chunk[r->chunks++] = page;
	}
	say(rq, "ok region=%lu chunks=%lu", id, chunks);
}

static void do_free(struct request *rq)
{
	unsigned long id;

	if (!number(rq, "region", &id) || id >= MAX_REGIONS || !regions[id].chunks)
		return refuse(rq, "region", "no such region");
	free_region(&regions[id]);
	say(rq, "ok region=%lu", id);
}

static void do_where(struct request *rq)
{
	unsigned long id, i;

	if (!number(rq, "region", &id) || id >= MAX_REGIONS || !regions[id].chunks)
		return refuse(rq, "region", "no such region");
	say(rq, "ok region=%lu gpa=", id);
	for (i = 0; i < regions[id].chunks; i++)
		say(rq, "%s0x%llx", i ? "," : "", (u64)page_to_phys(regions[id].chunk[i]));
}

static void do_convert(struct request *rq)
{
	unsigned long id, start, count, by, calls = 0;
	bool private = word_is(rq, "to", "private");
	struct region *r;

	if (!range(rq, &r, &id, &start, &count))
		return;
	if (!private && !word_is(rq, "to", "shared"))
		return refuse(rq, "to", "to must be private or shared");
	if (!number(rq, "by", &by) || !by || by > CHUNK_PAGES)
		return refuse(rq, "by", "by must be 1 to 512");
	say(rq, "ok calls=");
	while (count) {
		unsigned long n = min3(count, CHUNK_PAGES - start % CHUNK_PAGES, by);
		struct page *page = page_of(r, start);
		long ret = convert_piece(page, n, private);

		say(rq, "%s0x%llx:%lu", calls++ ? "," : "", (u64)page_to_phys(page), n);
		if (ret) {
			say(rq, " refused=%ld", ret);
			return;
		}
		start += n;
		count -= n;
		cond_resched();
	}
}

static void do_touch(struct request *rq)
{
	unsigned long id, start, count, stride, write, gen, n, w, touched = 0;
	struct region *r;
	u64 sum = 0;

	if (!range(rq, &r, &id, &start, &count))
		return;
	if (!number(rq, "stride", &stride) || !stride || !number(rq, "write", &write) ||
	    !number(rq, "gen", &gen))
		return refuse(rq, "usage", "touch needs stride, write and gen");
	for (n = start; n < start + count; n += stride, touched++) {
		u64 *p = page_address(page_of(r, n));

		if (!write) {
			sum += READ_ONCE(*p);
			continue;
		}
		for (w = 0; w < WORDS_PER_PAGE; w++)
			WRITE_ONCE(p[w], pattern(id, gen, n, w));
		cond_resched();
	}
	say(rq, "ok touched=%lu sum=%llx", touched, sum);
}

/* What a wrong word is, as far as it can be named. */
static void name_word(struct request *rq, u64 got)
{
	u64 v = got ^ PATTERN_KEY;

	if (!got)
		say(rq, "zero");
	else if ((v & 0xffff) < WORDS_PER_PAGE)
		say(rq, "guest:%llu/region:%llu/gen:%llu/page:%llu/word:%llu", v >> 60, (v >> 56) & 0xf,
		    (v >> 40) & 0xffff, (v >> 16) & 0xffffff, v & 0xffff);
	else
		say(rq, "0x%llx", got);
}

static void do_verify(struct request *rq)
{
	unsigned long id, start, count, gen = 0, n, w, bad = 0;
	bool zero = word_is(rq, "expect", "zero");
	struct region *r;

	if (!range(rq, &r, &id, &start, &count))
		return;
	if (!zero && (!word_is(rq, "expect", "pattern") || !number(rq, "gen", &gen)))
		return refuse(rq, "usage", "verify needs expect=zero, or expect=pattern and gen");
	say(rq, "ok bad=");
	for (n = start; n < start + count; n++) {
		u64 *p = page_address(page_of(r, n));

		for (w = 0; w < WORDS_PER_PAGE; w++) {
			u64 got = READ_ONCE(p[w]);

			if (got == (zero ? 0 : pattern(id, gen, n, w)))
				continue;
			if (bad++ < BAD_PAGES_SHOWN) {
				say(rq, "%s%lu@%lu=", bad > 1 ? "," : "", n, w);
				name_word(rq, got);
			}
			break;
		}
		cond_resched();
	}
	say(rq, "%s pages=%lu wrong=%lu", bad ? "" : "-", count, bad);
}

/*
 * Read one word of every page of RAM, so that the VMM's page tables map all of
 * it and the guest's own background work faults nothing in later.
 */
static void do_warm(struct request *rq)
{
	unsigned long pfn = node_start_pfn(numa_node_id()), end = node_end_pfn(numa_node_id()), pages = 0;
	u64 sum = 0;

	for (; pfn < end; pfn++) {
		u64 word;

		if (!pfn_valid(pfn) || PageReserved(pfn_to_page(pfn)))
			continue;
		if (!copy_from_kernel_nofault(&word, pfn_to_kaddr(pfn), sizeof(word))) {
			sum += word;
			pages++;
		}
		cond_resched();
	}
	say(rq, "ok pages=%lu sum=%llx", pages, sum);
}

static const struct {
	const char *verb;
	void (*run)(struct request *rq);
} verbs[] = {
	{ "info", do_info },	   { "alloc", do_alloc }, { "free", do_free },	   { "where", do_where },
	{ "convert", do_convert }, { "touch", do_touch }, { "verify", do_verify }, { "warm", do_warm },
};

static int gmem_open(struct inode *inode, struct file *file)
{
	struct request *rq = kzalloc(sizeof(*rq), GFP_KERNEL);

	if (!rq)
		return -ENOMEM;
	rq->reply = kvzalloc(REPLY_MAX_LEN, GFP_KERNEL);
	if (!rq->reply) {
		kfree(rq);
		return -ENOMEM;
	}
	file->private_data = rq;
	return nonseekable_open(inode, file);
}

static int gmem_release(struct inode *inode, struct file *file)
{
	struct request *rq = file->private_data;

	kvfree(rq->reply);
	kfree(rq);
	return 0;
}

static ssize_t gmem_write(struct file *file, const char __user *from, size_t count, loff_t *pos)
{
	struct request *rq = file->private_data;
	size_t verb, i;

	if (count >= sizeof(rq->line))
		return -EMSGSIZE;
	if (copy_from_user(rq->line, from, count))
		return -EFAULT;
	rq->line[count] = '\0';
	verb = strcspn(rq->line, " \n");
	rq->len = 0;
	mutex_lock(&regions_lock);
	for (i = 0; i < ARRAY_SIZE(verbs); i++)
		if (strlen(verbs[i].verb) == verb && !strncmp(verbs[i].verb, rq->line, verb))
			break;
	if (i < ARRAY_SIZE(verbs))
		verbs[i].run(rq);
	else
		refuse(rq, "verb", "unknown request");
	mutex_unlock(&regions_lock);
	return count;
}

static ssize_t gmem_read(struct file *file, char __user *to, size_t count, loff_t *pos)
{
	struct request *rq = file->private_data;
	size_t n = min(count, rq->len);

	if (copy_to_user(to, rq->reply, n))
		return -EFAULT;
	rq->len -= n;
	memmove(rq->reply, rq->reply + n, rq->len);
	return n;
}

static const struct file_operations gmem_fops = {
	.owner = THIS_MODULE,
	.open = gmem_open,
	.release = gmem_release,
	.write = gmem_write,
	.read = gmem_read,
};

static struct miscdevice gmem_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "gmem",
	.fops = &gmem_fops,
};

static int __init gmem_init(void)
{
	return misc_register(&gmem_misc);
}

static void __exit gmem_exit(void)
{
	unsigned int i;

	misc_deregister(&gmem_misc);
	for (i = 0; i < MAX_REGIONS; i++)
		free_region(&regions[i]);
}

module_init(gmem_init);
module_exit(gmem_exit);
MODULE_DESCRIPTION("convert, touch and verify exact guest pages");
MODULE_LICENSE("GPL");
