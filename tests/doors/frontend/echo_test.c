/* Send datagrams to the host's echo service and check every byte of what comes back; then segments to a neighbour.
 *
 * usage: echo_test SOCKET PACKETS SEGMENTED [NAME]
 */
#include "xen_frontend.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define HEADERS 42u
#define TCP_HEADERS 54u
#define MTU_FRAME 1514u
#define WINDOW 160u
#define MSS 1448u
#define SPORT 40007

static struct frontend alice, bob;
static uint8_t host_mac[6];
static int host_found, ping_answered;
static uint32_t next_echo, next_sequence, sizes[65536];
static uint64_t echoed_bytes, segments, random_state = 88172645463325252ull;

static uint32_t dice(uint32_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32) % below;
}

static uint8_t pattern(uint32_t sequence, unsigned at)
{
    return (uint8_t)((sequence * 2654435761u >> 13) + at * 31 + (at >> 8));
}

/* --- headers ----------------------------------------------------------------------------------------------------- */

static void put16(uint8_t *at, uint16_t value) { at[0] = value >> 8; at[1] = value & 255; }
static void put32(uint8_t *at, uint32_t value) { put16(at, value >> 16); put16(at + 2, value & 0xffff); }
static uint16_t get16(const uint8_t *at) { return at[0] << 8 | at[1]; }
static uint32_t get32(const uint8_t *at) { return (uint32_t)get16(at) << 16 | get16(at + 2); }

static uint32_t add_up(const uint8_t *data, unsigned length, uint32_t sum)
{
    for (unsigned at = 0; at + 1 < length; at += 2)
        sum += get16(data + at);
    if (length & 1)
        sum += data[length - 1] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static uint32_t pseudo(const uint8_t *frame, unsigned length)
{
    return add_up(frame + 26, 8, frame[23] + length);
}

static void put_ip(uint8_t *frame, const uint8_t *to, struct frontend *from, uint8_t target, uint8_t protocol,
                   unsigned length)
{
    memcpy(frame, to, 6);
    memcpy(frame + 6, from->mac, 6);
    put16(frame + 12, 0x0800);
    memset(frame + 14, 0, 20);
    frame[14] = 0x45;
    put16(frame + 16, length - 14);
    put16(frame + 20, 0x4000);
    frame[22] = 64;
    frame[23] = protocol;
    memcpy(frame + 26, (uint8_t[8]){10, 0, 0, 100 + from->mac[5], 10, 0, 0, target}, 8);
    put16(frame + 24, ~add_up(frame + 14, 20, 0));
}

/* --- what comes back --------------------------------------------------------------------------------------------- */

static void got_echo(const uint8_t *frame, unsigned length)
{
    uint32_t sequence = get32(frame + HEADERS);
    if (sequence != next_echo)
        fail("echo %u came when %u was due", sequence, next_echo);
    if (length != sizes[sequence & 65535] || get16(frame + 38) != length - 34)
        fail("echo %u has %u bytes, not %u", sequence, length, sizes[sequence & 65535]);
    if (get16(frame + 34) != 7 || get16(frame + 36) != SPORT || get32(frame + 26) != 0x0a000001)
        fail("echo %u comes from elsewhere", sequence);
    if (get16(frame + 40) && add_up(frame + 34, length - 34, pseudo(frame, length - 34)) != 0xffff)
        fail("echo %u has a bad checksum", sequence);
    for (unsigned at = HEADERS + 4; at < length; at++)
        if (frame[at] != pattern(sequence, at))
            fail("byte %u of echo %u is not what was sent", at, sequence);
    echoed_bytes += length;
    next_echo++;
}

static void alice_received(struct frontend *f, const uint8_t *frame, unsigned length)
{
    if (memcmp(frame, f->mac, 6))
        fail("a frame for somebody else");
    if (get16(frame + 12) == 0x0806) {
        memcpy(host_mac, frame + 22, 6);
        host_found = get16(frame + 20) == 2 && get32(frame + 28) == 0x0a000001;
    } else if (frame[23] == 1) {
        ping_answered = frame[34] == 0 && length == 98 && add_up(frame + 34, 64, 0) == 0xffff;
    } else {
        got_echo(frame, length);
    }
}

static void bob_received(struct frontend *f, const uint8_t *frame, unsigned length)
{
    if (get16(frame + 12) == 0x0806)
        return; /* alice asks everybody who the host is */
    if (memcmp(frame, f->mac, 6) || frame[23] != 6)
        fail("no segment of a stream: protocol %u", frame[23]);
    unsigned end = 14 + get16(frame + 16);
    if (end > length || add_up(frame + 34, end - 34, pseudo(frame, end - 34)) != 0xffff)
        fail("a segment with a bad length or checksum");
    if (get32(frame + 38) != next_sequence)
        fail("segment %u came when %u was due", get32(frame + 38), next_sequence);
    for (unsigned at = TCP_HEADERS; at < end; at++, next_sequence++)
        if (frame[at] != pattern(next_sequence >> 12, next_sequence & 4095))
            fail("byte %u of the stream is not what was sent", next_sequence);
    segments++;
}

static void work_or_wait(void)
{
    struct pollfd bells[2] = {{.fd = alice.wake_us, .events = POLLIN}, {.fd = bob.wake_us, .events = POLLIN}};
    if (frontend_work(&alice) + frontend_work(&bob))
        return;
    if (poll(bells, 2, 20000) <= 0)
        fail("nothing happens any more: %u echoes, %llu segments", next_echo, (unsigned long long)segments);
}

/* --- what is sent ------------------------------------------------------------------------------------------------ */

static void find_host(void)
{
    uint8_t ask[60] = {0};
    struct piece whole = {100, sizeof(ask)};
    memset(ask, 0xff, 6);
    memcpy(ask + 6, alice.mac, 6);
    put16(ask + 12, 0x0806);
    memcpy(ask + 14, (uint8_t[8]){0, 1, 8, 0, 6, 4, 0, 1}, 8);
    memcpy(ask + 22, alice.mac, 6);
    memcpy(ask + 28, (uint8_t[4]){10, 0, 0, 100 + alice.mac[5]}, 4);
    put32(ask + 38, 0x0a000001);
    frontend_send(&alice, ask, sizeof(ask), &whole, 1, 0, 0);
    frontend_push(&alice);
    while (!host_found)
        work_or_wait();
    uint8_t ping[98] = {0};
    whole.size = sizeof(ping);
    put_ip(ping, host_mac, &alice, 1, 1, sizeof(ping));
    ping[34] = 8;
    put16(ping + 36, ~add_up(ping + 34, 64, 0));
    frontend_send(&alice, ping, sizeof(ping), &whole, 1, 0, 0);
    frontend_push(&alice);
    while (!ping_answered)
        work_or_wait();
}

static unsigned cut_at_random(unsigned length, unsigned first, struct piece *pieces)
{
    unsigned count = 0;
    while (length) {
        unsigned size = count == 3 || length < 200 || dice(3) ? length : 1 + dice(length - 1);
        if (!count && size < first)
            size = first;
        pieces[count].size = size;
        pieces[count++].offset = dice(PAGE - size + 1);
        length -= size;
    }
    return count;
}

static void send_datagram(uint32_t sequence)
{
    uint8_t frame[MTU_FRAME];
    struct piece pieces[4];
    unsigned length = 60 + dice(MTU_FRAME - 60 + 1), blank = dice(2) ? NETTXF_csum_blank | NETTXF_data_validated : 0;
    put_ip(frame, host_mac, &alice, 1, 17, length);
    put16(frame + 34, SPORT);
    put16(frame + 36, 7);
    put16(frame + 38, length - 34);
    put16(frame + 40, 0);
    put32(frame + HEADERS, sequence);
    for (unsigned at = HEADERS + 4; at < length; at++)
        frame[at] = pattern(sequence, at);
    if (blank) {
        put16(frame + 40, pseudo(frame, length - 34)); /* as Linux leaves it: CHECKSUM_PARTIAL */
    } else if (dice(4)) {
        uint16_t sum = ~add_up(frame + 34, length - 34, pseudo(frame, length - 34));
        put16(frame + 40, sum ? sum : 0xffff);
    }
    sizes[sequence & 65535] = length;
    frontend_send(&alice, frame, length, pieces, cut_at_random(length, HEADERS, pieces), 0, blank);
}

static void send_segmented(uint32_t *sequence)
{
    static uint8_t packet[TCP_HEADERS + 15 * PAGE];
    struct piece pieces[16] = {{512, TCP_HEADERS}};
    unsigned payload = 1 + dice(sizeof(packet) - TCP_HEADERS), count = 1;
    unsigned length = TCP_HEADERS + payload;
    memset(packet, 0, TCP_HEADERS);
    put_ip(packet, bob.mac, &alice, 100 + bob.mac[5], 6, length);
    put16(packet + 34, SPORT);
    put16(packet + 36, 9);
    put32(packet + 38, *sequence);
    packet[46] = 5 << 4;
    packet[47] = 0x18;
    put16(packet + 50, pseudo(packet, length - 34));
    for (unsigned at = TCP_HEADERS; at < length; at++, ++*sequence)
        packet[at] = pattern(*sequence >> 12, *sequence & 4095);
    for (unsigned left = payload; left; left -= pieces[count++].size) {
        pieces[count].size = left < PAGE ? left : PAGE;
        pieces[count].offset = dice(PAGE - pieces[count].size + 1);
    }
    frontend_send(&alice, packet, length, pieces, count, MSS, NETTXF_csum_blank | NETTXF_data_validated);
}

int main(int count, char **words)
{
    struct timespec began, ended;
    char neighbour[64];
    if (count < 4)
        fail("usage: echo_test SOCKET PACKETS SEGMENTED [NAME]");
    uint32_t packets = atoi(words[2]), segmented = atoi(words[3]), sent = 0, sequence = 0;
    const char *name = count > 4 ? words[4] : "alice";
    snprintf(neighbour, sizeof(neighbour), "%s-b", name);
    alice.received = alice_received;
    bob.received = bob_received;
    frontend_attach(&alice, words[1], name, 1);
    frontend_attach(&bob, words[1], neighbour, 2);
    find_host();
    clock_gettime(CLOCK_MONOTONIC, &began);
    while (next_echo < packets) {
        while (sent < packets && sent - next_echo < WINDOW && frontend_room(&alice) >= 4)
            send_datagram(sent++);
        frontend_push(&alice);
        work_or_wait();
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    for (sent = 0; sent < segmented || next_sequence != sequence;) {
        if (sent < segmented && sequence - next_sequence < 2 * 65536 && frontend_room(&alice) >= 18) {
            send_segmented(&sequence);
            frontend_push(&alice);
            sent++;
        }
        work_or_wait();
    }
    while (alice.free_id_count != SLOTS)
        work_or_wait();
    frontend_detach(&alice);
    frontend_detach(&bob);
    double seconds = (ended.tv_sec - began.tv_sec) + (ended.tv_nsec - began.tv_nsec) / 1e9;
    printf("{\"echoes\":%u,\"echoed_bytes\":%llu,\"slots\":%llu,\"segments\":%llu,\"stream\":%u,\"kicks\":%llu,"
           "\"seconds\":%.3f}\n", next_echo, (unsigned long long)echoed_bytes, (unsigned long long)alice.sent_slots,
           (unsigned long long)segments, next_sequence, (unsigned long long)(alice.kicks + bob.kicks), seconds);
    return 0;
}
