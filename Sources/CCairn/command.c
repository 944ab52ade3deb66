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
    const struct cairn_cell *cell = data;
    (void)mem; (void)p;
    if (!cell->text) return dm_report_field_uint64(rh, field, &cell->number);
    dm_report_field_set_value(field, cell->text, &cell->number);
    return 1;
}
static int show_percent(struct dm_report *rh, struct dm_pool *mem, struct dm_report_field *field, const void *data, void *p) {
    (void)mem; (void)p;
    return dm_report_field_percent(rh, field, &((const struct cairn_cell *)data)->percent);
}
// In units; the engine compares sizes as sectors in a double.
static int show_size(struct dm_report *rh, struct dm_pool *mem, struct dm_report_field *field, const void *data, void *p) {
    const struct cairn_cell *cell = data;
    const struct cairn_report_style *style = p;
    char unit = 0;
    uint64_t factor = dm_units_to_factor(style->units, &unit, 1, NULL);
    double *sectors = dm_pool_alloc(mem, sizeof *sectors);
    const char *text = cell->text ? cell->text : dm_size_to_string(mem, cell->number, unit, 1, factor, !style->no_suffix, DM_SIZE_UNIT);
    (void)rh;
    if (!sectors || !text) return 0;
    *sectors = (double)cell->number;
    dm_report_field_set_value(field, text, sectors);
    return 1;
}
static void *same(void *object) { return object; }

static struct dm_report_field_type *make_fields(const struct cairn_field *fields, int count, int sizes) {
    struct dm_report_field_type *types = calloc((size_t)count + 1, sizeof *types);
    for (int i = 0; types && i < count; i++) {
        int is_size = fields[i].type == 2 && sizes;
        types[i].type = (uint32_t)fields[i].kind;
        // No alignment flags: selection compares the flags for equality with the type, and the type's alignment is right.
        types[i].flags = fields[i].type == 0 ? DM_REPORT_FIELD_TYPE_STRING : fields[i].type == 3 ? DM_REPORT_FIELD_TYPE_PERCENT
                         : is_size ? DM_REPORT_FIELD_TYPE_SIZE : DM_REPORT_FIELD_TYPE_NUMBER;
        types[i].offset = (uint32_t)(i * sizeof(struct cairn_cell));
        types[i].width = fields[i].width;
        strncpy((char *)types[i].id, fields[i].id, sizeof types[i].id - 1);
        strncpy((char *)types[i].heading, fields[i].heading, sizeof types[i].heading - 1);
        types[i].report_fn = fields[i].type == 0 ? show_text : fields[i].type == 3 ? show_percent : is_size ? show_size : show_number;
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
    {32, "Target", "target_", same},
    {64, "Input and Output", "io_", same},
    {128, "Cache", "cache_", same},
    {0, "", "", NULL},
};

int cairn_report(const struct cairn_field *fields, int field_count, const struct cairn_cell *cells, int row_count,
                 const struct cairn_report_style *style) {
    struct dm_report_field_type *types = make_fields(fields, field_count, style->units != NULL);
    struct dm_report_group *group = NULL;
    uint32_t kinds = 0;
    int ok = 0;
    struct dm_report *rh = dm_report_init_with_selection(&kinds, objects, types, style->columns, style->separator, style->flags,
                                                         style->sort, style->selection, NULL, (void *)style);
    if (!rh) { free(types); return 0; }
    if (style->flags & DM_REPORT_OUTPUT_FIELD_NAME_PREFIX) dm_report_set_output_field_name_prefix(rh, "DM_");
    if (!style->json || ((group = dm_report_group_create(DM_REPORT_GROUP_JSON, NULL)) && dm_report_group_push(group, rh, (void *)style->json))) {
        for (int i = 0; i < row_count; i++) dm_report_object(rh, (void *)(cells + (size_t)i * field_count));
        ok = dm_report_output(rh);
    }
    // The group's end prints the closing bracket.
    if (group && (!dm_report_group_pop(group) || !dm_report_group_destroy(group))) ok = 0;
    dm_report_free(rh);
    free(types);
    return ok;
}
int cairn_units_are_known(const char *units) {
    char unit = 0;
    return dm_units_to_factor(units, &unit, 1, NULL) != 0;
}
int cairn_select(const struct cairn_field *fields, int field_count, const struct cairn_cell *cells, int row_count,
                 const char *selection, unsigned char *selected) {
    struct dm_report_field_type *types = make_fields(fields, field_count, 0);
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
