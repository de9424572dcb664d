/* A network frontend of our own, over Xen's public headers: its memory, its grants, its two rings, and its bells. */
#ifndef XEN_FRONTEND_H
#define XEN_FRONTEND_H

#include <stddef.h>
#include <stdint.h>

#define __XEN_TOOLS__ 1
#define __XEN_INTERFACE_VERSION__ 0x00040e00
#define xen_mb()  __sync_synchronize()
#define xen_rmb() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define xen_wmb() __atomic_thread_fence(__ATOMIC_RELEASE)
#include <string.h>
#include <xen/xen.h>
#include <xen/grant_table.h>
#include <xen/io/ring.h>
#include <xen/io/netif.h>

#define PAGE 4096u
#define SLOTS 256u
#define REFS 1024u

/* Where things lie in our memory, by frame: nothing in the order that Linux or the emulator's guests have. */
#define GRANT_FRAME 5u
#define GRANT_FRAMES 2u
#define RX_RING 2u
#define TX_RING 9u
#define TX_PAGES 16u
#define RX_PAGES (TX_PAGES + SLOTS)
#define FRAMES (RX_PAGES + SLOTS)

struct piece { uint16_t offset, size; };

struct frontend {
    const char *name;
    uint8_t mac[6];
    int link, memfd, wake_door, wake_us;
    uint8_t *memory;
    volatile grant_entry_v1_t *grants;
    grant_ref_t free_refs[REFS];
    unsigned free_ref_count, granted;
    netif_tx_front_ring_t tx;
    netif_rx_front_ring_t rx;
    grant_ref_t tx_ref[SLOTS], rx_ref[SLOTS], ring_ref[2];
    uint16_t free_ids[SLOTS];
    unsigned free_id_count;
    uint8_t waiting[SLOTS];
    uint64_t kicks, sent_slots;
    void (*received)(struct frontend *, const uint8_t *frame, unsigned length);
};

/* Say what is wrong, and end with exit code 1. */
void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Make the memory, hand it over at the door, and come back when netback is connected. */
void frontend_attach(struct frontend *, const char *path, const char *name, uint8_t last_byte_of_mac);

/* Say how many pieces can be sent now. */
unsigned frontend_room(struct frontend *);

/* Put one packet into the ring, cut where `pieces` says; with `mss` it gets an extra slot (GSO, TCP over IPv4). */
void frontend_send(struct frontend *, const uint8_t *packet, unsigned length,
                   const struct piece *pieces, unsigned count, unsigned mss, unsigned flags);

/* Publish what was put, and kick netback if it asked for that. */
void frontend_push(struct frontend *);

/* Take all answers and all frames; return how many there were. */
unsigned frontend_work(struct frontend *);

/* Close in step with netback, take back every grant, and fail if one of them is still in use. */
void frontend_detach(struct frontend *);

#endif
