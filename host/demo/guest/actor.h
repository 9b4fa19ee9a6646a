/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ACTOR_H
#define ACTOR_H

/* Ends the program with errno's text. */
_Noreturn void die(const char *what);
_Noreturn void sleep_for_ever(void);

/* Commands of pid1.c. */
int do_asleep(int argc, char **argv);
_Noreturn int do_init(int argc, char **argv);
_Noreturn int do_freeze(int argc, char **argv);

#endif
