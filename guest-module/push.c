// SPDX-License-Identifier: GPL-2.0-only
/*
 * An image on its way in. The channel thread receives it into the space; from the commit until vesper_push_done() it belongs to
 * the loader thread, and no new push can begin.
 */
#include <linux/string.h>
#if IS_ENABLED(CONFIG_CRYPTO_LIB_SHA256)
#include <crypto/sha2.h>
#endif

#include "vesper.h"

static enum { PUSH_NONE, PUSH_RECEIVING, PUSH_LOADING } state;
static struct vesper_image image;
static u32 received;
static int error;

int vesper_push_begin(const struct vesper_push_begin *begin)
{
	u32 slot = le32_to_cpu(begin->slot);
	u32 bytes = le32_to_cpu(begin->image_bytes);
	u32 args_bytes = le32_to_cpu(begin->args_bytes);

	/* Pairs with the release in vesper_push_done(): the loader has finished with the image. */
	if (smp_load_acquire(&state) == PUSH_LOADING)
		return -EBUSY;
	/* A push that was begun and not committed is forgotten. */
	state = PUSH_NONE;
	if (slot >= VESPER_SLOTS || !bytes)
		return -EINVAL;
	if (le32_to_cpu(begin->kind) != VESPER_IMAGE_NATIVE)
		return -EOPNOTSUPP;
	if (bytes > vesper_space_bytes(VESPER_SPACE_IMAGE))
		return -EFBIG;
	if (args_bytes > VESPER_ARGS_MAX)
		return -E2BIG;
	if (vesper_slot_taken(slot))
		return -EBUSY;
	image.slot = slot;
	image.bytes = bytes;
	image.args_bytes = args_bytes;
	memcpy(image.sha256, begin->sha256, sizeof(image.sha256));
	memcpy(image.name, begin->name, sizeof(image.name));
	image.name[sizeof(image.name) - 1] = '\0';
	received = 0;
	error = 0;
	state = PUSH_RECEIVING;
	return 0;
}

/* There is no reply to a piece: what is wrong shows at the commit. */
void vesper_push_data(u32 slot, u32 offset, const u8 *data, u32 bytes)
{
	if (state != PUSH_RECEIVING || error)
		return;
	if (slot != image.slot)
		error = -EINVAL;
	else if (offset != received)
		error = -EILSEQ;
	else if (bytes > image.bytes - received)
		error = -EFBIG;
	if (error)
		return;
	memcpy((u8 *)vesper_space_memory(VESPER_SPACE_IMAGE) + offset, data, bytes);
	received += bytes;
}

int vesper_push_commit(u32 slot, const u8 *args, u32 args_bytes)
{
	char *to = vesper_space_memory(VESPER_SPACE_ARGS);

	if (state != PUSH_RECEIVING)
		return state == PUSH_LOADING ? -EBUSY : -ENOENT;
	if (slot != image.slot)
		return -EINVAL;
	state = PUSH_NONE;
	if (error)
		return error;
	if (received != image.bytes)
		return -EMSGSIZE;
	if (args_bytes != image.args_bytes || memchr(args, '\0', args_bytes))
		return -EINVAL;
	memcpy(to, args, args_bytes);
	to[args_bytes] = '\0';
	state = PUSH_LOADING;
	return 0;
}

const struct vesper_image *vesper_push_image(void)
{
	return &image;
}

/* Loader thread. */
int vesper_push_verify(void)
{
#if IS_ENABLED(CONFIG_CRYPTO_LIB_SHA256)
	u8 digest[SHA256_DIGEST_SIZE];

	sha256(vesper_space_memory(VESPER_SPACE_IMAGE), image.bytes, digest);
	return memcmp(digest, image.sha256, sizeof(digest)) ? -EBADMSG : 0;
#else
	return 0;
#endif
}

void vesper_push_done(void)
{
	smp_store_release(&state, PUSH_NONE);
}

/* The host of a half-done push is gone. What is being loaded goes on. */
void vesper_push_reset(void)
{
	if (smp_load_acquire(&state) == PUSH_RECEIVING)
		state = PUSH_NONE;
}
