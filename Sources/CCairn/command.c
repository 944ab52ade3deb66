#include <getopt.h>
#include <libdevmapper.h>
#include <stdlib.h>
#include <string.h>
#include "CCairn.h"

int cairn_getopt(int argc, char **argv, const char *letters, const struct cairn_option *options, int count, const char **argument) {
    struct option table[128];
    memset(table, 0, sizeof table);
    for (int i = 0; i < count && i < 127; i++) {
        table[i].name = options[i].name;
        table[i].has_arg = options[i].takes_argument;
        table[i].val = options[i].value;
    }
    int c = getopt_long(argc, argv, letters, table, NULL);
    *argument = optarg;
    return c;
}
int cairn_getopt_index(void) { return optind; }

static int show_text(struct dm_report *rh, struct dm_pool *mem, struct dm_report_field *field, const void *data, void *p) {
    (void)mem; (void)p;
    return dm_report_field_string(rh, field, &((const struct cairn_cell *)data)->text);
}
static int show_number(struct dm_report *rh, struct dm_pool *mem, struct dm_report_field *field, const void *data, void *p) {
    (void)mem; (void)p;
    return dm_report_field_uint64(rh, field, &((const struct cairn_cell *)data)->number);
}
static void *same(void *object) { return object; }

static struct dm_report_field_type *make_fields(const struct cairn_field *fields, int count) {
    struct dm_report_field_type *types = calloc((size_t)count + 1, sizeof *types);
    for (int i = 0; types && i < count; i++) {
        types[i].type = (uint32_t)fields[i].kind;
        // No alignment flags: selection compares the flags for equality with the type, and the type's alignment is right.
        types[i].flags = fields[i].number ? DM_REPORT_FIELD_TYPE_NUMBER : DM_REPORT_FIELD_TYPE_STRING;
        types[i].offset = (uint32_t)(i * sizeof(struct cairn_cell));
        types[i].width = fields[i].width;
        strncpy((char *)types[i].id, fields[i].id, sizeof types[i].id - 1);
        strncpy((char *)types[i].heading, fields[i].heading, sizeof types[i].heading - 1);
        types[i].report_fn = fields[i].number ? show_number : show_text;
        types[i].desc = fields[i].description;
    }
    return types;
}
static const struct dm_report_object_type objects[] = {
    {1, "Volume Name", "name_", same},
    {2, "Volume Information", "info_", same},
    {4, "Volume Relationship", "deps_", same},
    {8, "Volume Name Components", "splitname_", same},
    {16, "Cairn", "cairn_", same},
    {0, "", "", NULL},
};

int cairn_report(const struct cairn_field *fields, int field_count, const struct cairn_cell *cells, int row_count,
                 const char *columns, const char *separator, unsigned flags, const char *sort, const char *selection) {
    struct dm_report_field_type *types = make_fields(fields, field_count);
    uint32_t kinds = 0;
    struct dm_report *rh = dm_report_init_with_selection(&kinds, objects, types, columns, separator, flags, sort, selection, NULL, NULL);
    if (!rh) { free(types); return 0; }
    if (flags & DM_REPORT_OUTPUT_FIELD_NAME_PREFIX) dm_report_set_output_field_name_prefix(rh, "DM_");
    for (int i = 0; i < row_count; i++) dm_report_object(rh, (void *)(cells + (size_t)i * field_count));
    int ok = dm_report_output(rh);
    dm_report_free(rh);
    free(types);
    return ok;
}
int cairn_select(const struct cairn_field *fields, int field_count, const struct cairn_cell *cells, int row_count,
                 const char *selection, unsigned char *selected) {
    struct dm_report_field_type *types = make_fields(fields, field_count);
    uint32_t kinds = 0;
    struct dm_report *rh = dm_report_init_with_selection(&kinds, objects, types, "name", " ", 0, "", selection, NULL, NULL);
    if (!rh) { free(types); return 0; }
    for (int i = 0; i < row_count; i++) {
        int hit = 0;
        dm_report_object_is_selected(rh, (void *)(cells + (size_t)i * field_count), 0, &hit);
        selected[i] = hit != 0;
    }
    dm_report_free(rh);
    free(types);
    return 1;
}
const char *cairn_library_version(void) {
    static char text[64];
    return dm_get_library_version(text, sizeof text) ? text : "unknown";
}
