/* The frontend's mechanics; what is sent and what must come back is echo_test.c. */
#define _GNU_SOURCE
#include "xen_frontend.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

/* --- grants: version 1, ended by cmpxchg as every guest of Xen does ---------------------------------------------- */

static grant_ref_t grant(struct frontend *f, uint32_t frame, int readonly)
{
    if (!f->free_ref_count)
        fail("%s has no grant reference left", f->name);
    grant_ref_t ref = f->free_refs[--f->free_ref_count];
    f->grants[ref].frame = frame;
    f->grants[ref].domid = 0;
    xen_wmb();
    f->grants[ref].flags = GTF_permit_access | (readonly ? GTF_readonly : 0);
    f->granted++;
    return ref;
}

static void end_grant(struct frontend *f, grant_ref_t ref, const char *what)
{
    uint16_t flags = f->grants[ref].flags;
    do {
        if (flags & (GTF_reading | GTF_writing))
            fail("%s: the grant of %s is still in use (flags %#x)", f->name, what, flags);
        if (!(flags & GTF_permit_access))
            fail("%s: the grant of %s was lost (flags %#x)", f->name, what, flags);
    } while (!__atomic_compare_exchange_n((uint16_t *)&f->grants[ref].flags, &flags, 0, 0,
                                          __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    f->free_refs[f->free_ref_count++] = ref;
    f->granted--;
}

/* --- the door ---------------------------------------------------------------------------------------------------- */

static void make_memory(struct frontend *f)
{
    f->memfd = memfd_create(f->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (f->memfd < 0 || ftruncate(f->memfd, FRAMES * PAGE) || fcntl(f->memfd, F_ADD_SEALS, F_SEAL_SHRINK))
        fail("no memory: %s", strerror(errno));
    f->memory = mmap(NULL, FRAMES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, f->memfd, 0);
    if (f->memory == MAP_FAILED)
        fail("no mapping: %s", strerror(errno));
    f->grants = (grant_entry_v1_t *)(f->memory + GRANT_FRAME * PAGE);
    for (unsigned ref = REFS - 1; ref >= GNTTAB_NR_RESERVED_ENTRIES; ref--)
        f->free_refs[f->free_ref_count++] = ref;
}

static void say(struct frontend *f, const char *line, int with_descriptors)
{
    int descriptors[3] = {f->memfd, f->wake_door, f->wake_us};
    char control[CMSG_SPACE(sizeof(descriptors))] __attribute__((aligned(8))) = {0};
    struct iovec text = {.iov_base = (void *)line, .iov_len = strlen(line)};
    struct msghdr message = {.msg_iov = &text, .msg_iovlen = 1};
    if (with_descriptors) {
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(descriptors));
        memcpy(CMSG_DATA(rights), descriptors, sizeof(descriptors));
    }
    if (sendmsg(f->link, &message, MSG_NOSIGNAL) < 0)
        fail("%s cannot speak: %s", f->name, strerror(errno));
}

static void await_state(struct frontend *f, int state)
{
    char line[4096], wanted[32];
    snprintf(wanted, sizeof(wanted), "\"state\":%d", state);
    do {
        struct pollfd look = {.fd = f->link, .events = POLLIN};
        if (poll(&look, 1, 20000) <= 0)
            fail("%s waited in vain for state %d", f->name, state);
        ssize_t length = recv(f->link, line, sizeof(line) - 1, 0);
        if (length <= 0)
            fail("%s: the door has hung up", f->name);
        line[length] = 0;
        if (strstr(line, "\"error\""))
            fail("%s: %s", f->name, line);
    } while (!strstr(line, wanted));
}

static void offer_buffer(struct frontend *f, unsigned id)
{
    f->rx_ref[id] = grant(f, RX_PAGES + id, 0);
    netif_rx_request_t *request = RING_GET_REQUEST(&f->rx, f->rx.req_prod_pvt);
    request->id = id;
    request->pad = 0;
    request->gref = f->rx_ref[id];
    f->rx.req_prod_pvt++;
}

void frontend_attach(struct frontend *f, const char *path, const char *name, uint8_t last_byte_of_mac)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char line[1024];
    f->name = name;
    memcpy(f->mac, (uint8_t[6]){0x00, 0x16, 0x3e, 0x77, 0x00, last_byte_of_mac}, 6);
    make_memory(f);
    f->wake_door = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    f->wake_us = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    netif_tx_sring_t *tx = (netif_tx_sring_t *)(f->memory + TX_RING * PAGE);
    netif_rx_sring_t *rx = (netif_rx_sring_t *)(f->memory + RX_RING * PAGE);
    SHARED_RING_INIT(tx);
    FRONT_RING_INIT(&f->tx, tx, PAGE);
    SHARED_RING_INIT(rx);
    FRONT_RING_INIT(&f->rx, rx, PAGE);
    if (RING_SIZE(&f->tx) != SLOTS || RING_SIZE(&f->rx) != SLOTS)
        fail("a ring has another size than ours");
    f->ring_ref[0] = grant(f, TX_RING, 0);
    f->ring_ref[1] = grant(f, RX_RING, 0);
    for (unsigned id = 0; id < SLOTS; id++) {
        f->free_ids[f->free_id_count++] = id;
        offer_buffer(f, id);
    }
    RING_PUSH_REQUESTS(&f->rx);
    f->link = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    if (connect(f->link, (struct sockaddr *)&address, sizeof(address)))
        fail("nobody is at the door: %s", strerror(errno));
    snprintf(line, sizeof(line),
             "{\"attach\":\"%s\",\"state\":4,\"grant-frame\":%u,\"grant-frames\":%u,\"keys\":{\"mac\":"
             "\"%02x:%02x:%02x:%02x:%02x:%02x\",\"tx-ring-ref\":%u,\"rx-ring-ref\":%u,\"event-channel\":1,"
             "\"request-rx-copy\":1,\"feature-sg\":1}}\n",
             name, GRANT_FRAME, GRANT_FRAMES, f->mac[0], f->mac[1], f->mac[2], f->mac[3], f->mac[4], f->mac[5],
             f->ring_ref[0], f->ring_ref[1]);
    say(f, line, 1);
    await_state(f, 4);
}

void frontend_detach(struct frontend *f)
{
    say(f, "{\"state\":5}\n", 0);
    await_state(f, 5);
    say(f, "{\"state\":6}\n", 0);
    await_state(f, 6);
    for (unsigned id = 0; id < SLOTS; id++)
        end_grant(f, f->rx_ref[id], "a receive buffer");
    end_grant(f, f->ring_ref[0], "the transmit ring");
    end_grant(f, f->ring_ref[1], "the receive ring");
    if (f->granted || f->free_id_count != SLOTS)
        fail("%s: %u grants never ended, %u requests never answered", f->name, f->granted,
             SLOTS - f->free_id_count);
    close(f->link);
}

/* --- sending ----------------------------------------------------------------------------------------------------- */

unsigned frontend_room(struct frontend *f)
{
    unsigned slots = RING_FREE_REQUESTS(&f->tx);
    return slots < f->free_id_count ? slots : f->free_id_count;
}

void frontend_send(struct frontend *f, const uint8_t *packet, unsigned length,
                   const struct piece *pieces, unsigned count, unsigned mss, unsigned flags)
{
    for (unsigned index = 0; index < count; index++) {
        uint16_t id = f->free_ids[--f->free_id_count];
        memcpy(f->memory + (TX_PAGES + id) * PAGE + pieces[index].offset, packet, pieces[index].size);
        packet += pieces[index].size;
        f->tx_ref[id] = grant(f, TX_PAGES + id, 1);
        f->waiting[id] = 1;
        netif_tx_request_t *request = RING_GET_REQUEST(&f->tx, f->tx.req_prod_pvt);
        request->gref = f->tx_ref[id];
        request->offset = pieces[index].offset;
        request->id = id;
        request->size = index ? pieces[index].size : length;
        request->flags = (index ? 0 : flags | (mss ? NETTXF_extra_info : 0)) | (index + 1 < count ? NETTXF_more_data : 0);
        f->tx.req_prod_pvt++;
        if (!index && mss) {
            netif_extra_info_t *extra = (netif_extra_info_t *)RING_GET_REQUEST(&f->tx, f->tx.req_prod_pvt);
            memset(extra, 0, sizeof(*extra));
            extra->type = XEN_NETIF_EXTRA_TYPE_GSO;
            extra->u.gso.size = mss;
            extra->u.gso.type = XEN_NETIF_GSO_TYPE_TCPV4;
            f->tx.req_prod_pvt++;
        }
    }
    f->sent_slots += count;
}

void frontend_push(struct frontend *f)
{
    int notify;
    RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&f->tx, notify);
    if (notify) {
        eventfd_write(f->wake_door, 1);
        f->kicks++;
    }
}

/* --- what comes back --------------------------------------------------------------------------------------------- */

static unsigned take_answers(struct frontend *f)
{
    unsigned taken = 0;
    int more;
    do {
        RING_IDX end = f->tx.sring->rsp_prod;
        xen_rmb();
        if (RING_RESPONSE_PROD_OVERFLOW(&f->tx, end))
            fail("%s: netback answers more than was asked", f->name);
        for (; f->tx.rsp_cons != end; f->tx.rsp_cons++, taken++) {
            netif_tx_response_t answer;
            RING_COPY_RESPONSE(&f->tx, f->tx.rsp_cons, &answer);
            if (answer.status == NETIF_RSP_NULL)
                continue;
            if (answer.id >= SLOTS || !f->waiting[answer.id])
                fail("%s: an answer to a request %u that waits for none", f->name, answer.id);
            if (answer.status != NETIF_RSP_OKAY)
                fail("%s: request %u is answered with %d", f->name, answer.id, answer.status);
            f->waiting[answer.id] = 0;
            end_grant(f, f->tx_ref[answer.id], "a sent page");
            memset(f->memory + (TX_PAGES + answer.id) * PAGE, 0xdd, PAGE); /* it is ours again */
            f->free_ids[f->free_id_count++] = answer.id;
        }
        RING_FINAL_CHECK_FOR_RESPONSES(&f->tx, more);
    } while (more);
    return taken;
}

static unsigned take_frames(struct frontend *f)
{
    unsigned taken = 0;
    int more, notify;
    do {
        RING_IDX end = f->rx.sring->rsp_prod;
        xen_rmb();
        if (RING_RESPONSE_PROD_OVERFLOW(&f->rx, end))
            fail("%s: netback fills more buffers than there are", f->name);
        for (; f->rx.rsp_cons != end; taken++) {
            netif_rx_response_t answer;
            RING_COPY_RESPONSE(&f->rx, f->rx.rsp_cons, &answer);
            unsigned slot = f->rx.rsp_cons++ & (SLOTS - 1);
            if (answer.id != slot)
                fail("%s: buffer %u came back in the slot of %u", f->name, answer.id, slot);
            if (answer.status <= 0 || answer.offset + answer.status > (int)PAGE || answer.flags & NETRXF_more_data)
                fail("%s: buffer %u came back with status %d, flags %#x", f->name, slot, answer.status, answer.flags);
            end_grant(f, f->rx_ref[slot], "a receive buffer");
            f->received(f, f->memory + (RX_PAGES + slot) * PAGE + answer.offset, answer.status);
            memset(f->memory + (RX_PAGES + slot) * PAGE, 0xee, PAGE);
            offer_buffer(f, slot);
        }
        RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&f->rx, notify);
        if (notify) {
            eventfd_write(f->wake_door, 1);
            f->kicks++;
        }
        RING_FINAL_CHECK_FOR_RESPONSES(&f->rx, more);
    } while (more);
    return taken;
}

unsigned frontend_work(struct frontend *f)
{
    eventfd_t kicks;
    eventfd_read(f->wake_us, &kicks);
    return take_answers(f) + take_frames(f);
}
