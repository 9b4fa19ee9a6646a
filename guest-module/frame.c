// SPDX-License-Identifier: GPL-2.0-only
/*
 * Frames to and from bytes. What arrives need not be frames: a host may have been killed in the middle of one, or a stranger may
 * write to the port. A frame counts only when its CRC is right; what is between is skipped and counted.
 */
#include <linux/crc32.h>
#include <linux/string.h>

#include "vesper.h"

#define FRAME_MAX (sizeof(struct vesper_frame) + VESPER_FRAME_PAYLOAD_MAX)

/* CRC-32C of the header, whose crc32c is zero, and the payload. */
static u32 frame_crc(const struct vesper_frame *header, const void *payload, u32 bytes)
{
	u32 crc = VESPER_CRC32C(~0u, (const u8 *)header, sizeof(*header));

	return ~VESPER_CRC32C(crc, payload, bytes);
}

u32 vesper_frame_encode(void *to, u16 type, u32 request_id, const void *payload, u32 bytes, const void *tail, u32 tail_bytes)
{
	struct vesper_frame header = {
		.magic = cpu_to_le32(VESPER_FRAME_MAGIC),
		.version = cpu_to_le16(VESPER_PROTOCOL_VERSION),
		.type = cpu_to_le16(type),
		.request_id = cpu_to_le32(request_id),
		.payload_length = cpu_to_le32(bytes + tail_bytes),
	};
	u8 *body = (u8 *)to + sizeof(header);

	memcpy(body, payload, bytes);
	if (tail_bytes)
		memcpy(body + bytes, tail, tail_bytes);
	header.crc32c = cpu_to_le32(frame_crc(&header, body, bytes + tail_bytes));
	memcpy(to, &header, sizeof(header));
	return sizeof(header) + bytes + tail_bytes;
}

static void parser_skip(struct vesper_parser *parser, u32 bytes)
{
	parser->start += bytes;
	parser->bad_bytes += bytes;
}

/* Skips to the next magic, or to an end that may be the beginning of one. */
static bool parser_find_magic(struct vesper_parser *parser)
{
	const __le32 magic = cpu_to_le32(VESPER_FRAME_MAGIC);

	while (parser->end > parser->start) {
		const u8 *at = parser->data + parser->start;
		u32 pending = parser->end - parser->start;
		const u8 *candidate = memchr(at, *(const u8 *)&magic, pending);
		u32 left;

		if (!candidate) {
			parser_skip(parser, pending);
			return false;
		}
		parser_skip(parser, candidate - at);
		left = parser->end - parser->start;
		if (!memcmp(candidate, &magic, min_t(u32, left, sizeof(magic))))
			return left >= sizeof(magic);
		parser_skip(parser, 1);
	}
	return false;
}

/*
 * The next frame of the buffer. FRAME: its CRC is right, `message` points into the buffer until the next call. BAD: not a
 * frame although it began like one, `message` has its type. NOTHING: more bytes are needed.
 */
enum vesper_parsed vesper_parse(struct vesper_parser *parser, struct vesper_arrived *message)
{
	struct vesper_frame header;
	const u8 *payload;
	u32 bytes, crc;

	if (!parser_find_magic(parser) || parser->end - parser->start < sizeof(header))
		return VESPER_PARSED_NOTHING;
	memcpy(&header, parser->data + parser->start, sizeof(header));
	payload = parser->data + parser->start + sizeof(header);
	bytes = le32_to_cpu(header.payload_length);
	message->type = le16_to_cpu(header.type);
	message->version = le16_to_cpu(header.version);
	message->request_id = le32_to_cpu(header.request_id);
	message->payload = payload;
	message->bytes = bytes;

	if (bytes > VESPER_FRAME_PAYLOAD_MAX)
		goto bad;
	if (parser->end - parser->start < sizeof(header) + bytes)
		return VESPER_PARSED_NOTHING;
	crc = le32_to_cpu(header.crc32c);
	header.crc32c = 0;
	if (frame_crc(&header, payload, bytes) != crc)
		goto bad;
	parser->start += sizeof(header) + bytes;
	return VESPER_PARSED_FRAME;

bad:
	/* Its length is as doubtful as the rest: a real frame may begin right behind the magic. */
	parser_skip(parser, 1);
	parser->bad_frames++;
	return VESPER_PARSED_BAD;
}

/*
 * The buffer begins with a frame whose rest does not come. Drops it where a whole frame stands behind it: its sender is gone,
 * and a new one speaks. Otherwise everything stays as it is, for the sender may only be slow.
 */
bool vesper_parser_resync(struct vesper_parser *parser)
{
	struct vesper_parser trial = *parser;
	struct vesper_arrived message;

	while (trial.start < trial.end) {
		u32 frame;

		parser_skip(&trial, 1);
		if (!parser_find_magic(&trial))
			return false;
		frame = trial.start;
		if (vesper_parse(&trial, &message) != VESPER_PARSED_FRAME) {
			trial.start = frame;
			continue;
		}
		parser->bad_frames++;
		parser_skip(parser, frame - parser->start);
		return true;
	}
	return false;
}

void vesper_parser_compact(struct vesper_parser *parser)
{
	memmove(parser->data, parser->data + parser->start, parser->end - parser->start);
	parser->end -= parser->start;
	parser->start = 0;
}

/* Of what was there nothing counts any more; `bytes` have just been written behind it. */
void vesper_parser_restart(struct vesper_parser *parser, u32 bytes)
{
	memmove(parser->data, parser->data + parser->end, bytes);
	parser->start = 0;
	parser->end = bytes;
}
